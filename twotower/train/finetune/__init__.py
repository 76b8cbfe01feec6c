"""Fine-tuning on one's own pictures, with a report of gains and losses."""
