"""Our models as models of Hugging Face's transformers: `import hybridgen.hf` makes its Auto classes know them.

It needs the extra `hf` (`pip install 'hybridgen[hf]'`), and is the only part that imports transformers.
"""

from hybridgen.errors import HybridgenError

try:
    import transformers as _transformers
except ImportError as error:
    _missing = isinstance(error, ModuleNotFoundError) and error.name == "transformers"
    _why = "is not installed" if _missing else f"cannot be imported ({error})"
    raise HybridgenError(f"hybridgen.hf needs transformers, which {_why}: pip install 'hybridgen[hf]'") from error
# Caches of 5.20 lack what ours need; 5.24 calls caches by another name, and would decode without them.
if _transformers.__version__.split(".")[:2] != ["5", "23"]:
    raise HybridgenError(
        f"hybridgen.hf works with transformers 5.23, and {_transformers.__version__} is installed: "
        f"pip install 'hybridgen[hf]'"
    )

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as _NAMES

from hybridgen.hf.classification import HybridgenForImageClassification as HybridgenForImageClassification
from hybridgen.hf.classification import HybridgenForSequenceClassification as HybridgenForSequenceClassification
from hybridgen.hf.config import HybridgenConfig as HybridgenConfig
from hybridgen.hf.kernels import offer_kernels as _offer_kernels
from hybridgen.hf.language import HybridgenForCausalLM as HybridgenForCausalLM
from hybridgen.hf.modeling import HybridgenModel as HybridgenModel
from hybridgen.hf.modeling import HybridgenPreTrainedModel as HybridgenPreTrainedModel
from hybridgen.hf.wrapping import unwrap as unwrap
from hybridgen.hf.wrapping import wrap as wrap
from hybridgen.integrations import liger as _liger

__all__ = [
    "HybridgenConfig",
    "HybridgenForCausalLM",
    "HybridgenForImageClassification",
    "HybridgenForSequenceClassification",
    "HybridgenModel",
    "unwrap",
    "wrap",
]

_transformers.AutoConfig.register("hybridgen", HybridgenConfig)
_transformers.AutoModel.register(HybridgenConfig, HybridgenModel)
_transformers.AutoModelForCausalLM.register(HybridgenConfig, HybridgenForCausalLM)
_transformers.AutoModelForSequenceClassification.register(HybridgenConfig, HybridgenForSequenceClassification)
_transformers.AutoModelForImageClassification.register(HybridgenConfig, HybridgenForImageClassification)

# Trainer looks here whether a class predicts next tokens, where it smooths labels.
_NAMES["hybridgen"] = HybridgenForCausalLM.__name__

_offer_kernels()
_liger.register()
