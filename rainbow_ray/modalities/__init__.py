"""One file a modality: its columns, `prepare` (rows), `collate` (batches) and encoder."""
