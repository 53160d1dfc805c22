"""Networks, their one training loop, and what applies them."""
