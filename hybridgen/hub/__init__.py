"""Directories that Hugging Face's tools open, from the spec alone: config.json, the shim, the card. Loads no torch."""

from hybridgen.hub.architecture import architecture as architecture
from hybridgen.hub.architecture import layer_types as layer_types
from hybridgen.hub.configuration import config_document as config_document
from hybridgen.hub.configuration import generation_document as generation_document
