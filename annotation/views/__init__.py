"""The pages of annotators and managers. Each view makes one service call; the HTTP API makes the same ones."""
