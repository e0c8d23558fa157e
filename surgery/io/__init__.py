"""Where bytes come from and how folders come to exist; nothing here imports torch."""
