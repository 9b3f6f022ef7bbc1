"""How to load what was exported, as code that runs in the folder that holds the file. Imports no torch.

What needs this project says so: it is found where it is installed, or through PYTHONPATH.
"""

from .formats import BIN, GGUF_KINDS, PLAN, file_of, folder_of

_FOLDER = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}"{trust})
model = AutoModelForCausalLM.from_pretrained("{folder}"{trust})
inputs = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))
"""
_BIN = """# Runs where the pruning project is installed, or with PYTHONPATH=<its folder>: it builds layers of any size.
# In the project's own folder, give the path of the file.
import pruning

model = pruning.load_bin("pytorch_model.bin")
print(f"{model.num_parameters():,} parameters")
"""
_GGUF = """from llama_cpp import Llama

model = Llama("{file}", n_ctx=0, verbose=False)
print(model("Once upon a time", max_tokens=40)["choices"][0]["text"])
"""
_PLAN = """# In the folder of the pruning project, with the path of the file.
python -m pruning apply --base_model {base_model} --plan plan.json --save_model
"""


def sample_code(name: str, own_code: bool = False, place: str | None = None, base_model: str = "MODEL") -> str:
    """The code for a format; `own_code`: the folder builds its layers itself; `place`: folder or hub id instead of the
    folder's own name. For a plan it is the command that cuts by it.
    """
    if name == BIN:
        return _BIN
    if name == PLAN:
        return _PLAN.format(base_model=base_model)
    if name in GGUF_KINDS:
        return _GGUF.format(file=file_of(name))
    return _FOLDER.format(folder=place or folder_of(name), trust=", trust_remote_code=True" if own_code else "")
