"""Policies in transformers' `generate`: the student writes, and calls its teacher as a rule in words allows.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
from tw_env.generate import assisted
from tw_env.tasks import pronounce

student = AutoModelForCausalLM.from_pretrained(pronounce.STUDENT)
tokenizer = AutoTokenizer.from_pretrained(pronounce.STUDENT, padding_side="left")
inputs = tokenizer([pronounce.prompt("hello"), pronounce.prompt("pneumonia")], padding=True, return_tensors="pt")
out = student.generate(
    **inputs, custom_generate=assisted, teacher=pronounce.TEACHER, policy="pronounce-pcl", max_new_tokens=24,
    rule="ask the teacher for at most 20% of the tokens", return_dict_in_generate=True,
)
print(tokenizer.batch_decode(out.sequences), out.calls)
```

Reading order: `door` (what `generate` calls), `options` (which of its options can be followed), `pairing` (two models
as a pair), `playing` (the game), `streaming` (texts marked by writer while they are written).
"""

from tw_env.generate.door import Assisted, assisted
from tw_env.generate.streaming import MarkedStreamer

__all__ = ["Assisted", "MarkedStreamer", "assisted"]
