"""The glue between queue and science: the only package that knows both."""
