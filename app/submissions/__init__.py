"""From a request to a queued job: resolve, check, select, estimate."""
