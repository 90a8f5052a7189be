"""Our models as models of Hugging Face's transformers: `import hybridgen.hf` makes its Auto classes know them.

It needs the extra `hf` (`pip install 'hybridgen[hf]'`), and is the only part that imports transformers.
"""

from hybridgen.errors import HybridgenError

try:
    import transformers as _transformers
except ImportError as error:
    raise HybridgenError(
        "hybridgen.hf needs transformers, which is not installed: pip install 'hybridgen[hf]'"
    ) from error

from hybridgen.hf.classification import HybridgenForImageClassification as HybridgenForImageClassification
from hybridgen.hf.classification import HybridgenForSequenceClassification as HybridgenForSequenceClassification
from hybridgen.hf.config import HybridgenConfig as HybridgenConfig
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

_liger.register()
