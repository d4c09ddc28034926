"""A run for the programs that a team already looks at: TensorBoard, W&B, MLflow, spreadsheets, LaTeX."""
