"""How static files are served: under a name that holds their content's hash, compressed, cached for ever."""

from whitenoise.storage import CompressedManifestStaticFilesStorage


class HashedFiles(CompressedManifestStaticFilesStorage):
    """Scripts import one another under hashed names too, so that no page mixes two versions."""

    support_js_module_import_aggregation = True
