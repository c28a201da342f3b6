"""How uploaded files are received: in large pieces, each of which goes through the parser and to the disk."""

from typing import Final

from django.core.files.uploadhandler import MemoryFileUploadHandler, TemporaryFileUploadHandler

PIECE: Final = 512 * 1024  # bytes; Django's own pieces are an eighth of it


class InMemory(MemoryFileUploadHandler):
    chunk_size = PIECE


class OnDisk(TemporaryFileUploadHandler):
    chunk_size = PIECE
