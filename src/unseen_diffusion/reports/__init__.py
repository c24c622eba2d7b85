"""What people read: tables, comparisons, figures, the HTML report, wandb."""
