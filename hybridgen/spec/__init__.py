"""Documents: what a user writes, how it is checked, and the resolved form that everything else reads."""

from hybridgen.spec.activations import ACTIVATION_NAMES as ACTIVATION_NAMES
from hybridgen.spec.ends import ClassifierHeadSpec as ClassifierHeadSpec
from hybridgen.spec.ends import CodebooksHeadSpec as CodebooksHeadSpec
from hybridgen.spec.ends import CodebooksInputSpec as CodebooksInputSpec
from hybridgen.spec.ends import HeadSpec as HeadSpec
from hybridgen.spec.ends import HiddenInputSpec as HiddenInputSpec
from hybridgen.spec.ends import InputSpec as InputSpec
from hybridgen.spec.ends import LmHeadSpec as LmHeadSpec
from hybridgen.spec.ends import NoHeadSpec as NoHeadSpec
from hybridgen.spec.ends import PatchesInputSpec as PatchesInputSpec
from hybridgen.spec.ends import TokensInputSpec as TokensInputSpec
from hybridgen.spec.load import load_spec as load_spec
from hybridgen.spec.mamba import Mamba1Spec as Mamba1Spec
from hybridgen.spec.mamba import Mamba2Spec as Mamba2Spec
from hybridgen.spec.mixers import AttentionSpec as AttentionSpec
from hybridgen.spec.mixers import MixerSpec as MixerSpec
from hybridgen.spec.model import BackboneSpec as BackboneSpec
from hybridgen.spec.model import LayerSpec as LayerSpec
from hybridgen.spec.model import ModelSpec as ModelSpec
from hybridgen.spec.parts import InitSpec as InitSpec
from hybridgen.spec.parts import MlpSpec as MlpSpec
from hybridgen.spec.parts import NormSpec as NormSpec
