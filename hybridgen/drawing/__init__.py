"""Pictures of models, from the spec alone: SVG, PNG, HTML, mermaid and text."""

from hybridgen.drawing.draw import draw as draw
from hybridgen.drawing.draw import picture as picture
