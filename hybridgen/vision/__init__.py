"""Models of images as timm's users know them, other image sizes, and pictures from files."""

from hybridgen.vision.create import create_model as create_model
from hybridgen.vision.pictures import read_picture as read_picture
from hybridgen.vision.resize import interpolate_pos_embed as interpolate_pos_embed
from hybridgen.vision.resize import resize_model as resize_model
