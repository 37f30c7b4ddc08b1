# SPDX-License-Identifier: GPL-2.0-only
"""One module per subcommand; each defines a click command called ``command``."""
