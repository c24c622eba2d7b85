"""Reports: tables, comparisons, figures, the HTML page, and tracking in wandb."""
