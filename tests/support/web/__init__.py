"""The browser that tests of the web page drive, and where it is."""
