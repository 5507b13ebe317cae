"""The command-line tools; installed, they are ``sar_dist.tools``, which an editable install finds by this file alone."""
