"""The pages of annotators and managers. Each view makes one service call, as the HTTP API does."""
