"""The processes that run jobs: the only package that imports both `app` and `surgery.training`."""
