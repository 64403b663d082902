"""What came out: metrics with intervals, baselines, the verdict, and the bundle that predicts."""
