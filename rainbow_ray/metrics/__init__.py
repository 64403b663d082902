"""Metrics of classification, regression and segmentation."""
