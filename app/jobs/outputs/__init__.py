"""What running jobs leave behind: their records, checkpoints and exported folders."""
