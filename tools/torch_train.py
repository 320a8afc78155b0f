"""The PyTorch side of `tools/benchmark.py train --against torch`: a Llama and AdamW.

Reads words from standard input: "step" answers with the seconds of one training step, "memory"
with the most bytes this process (or its device) held, "end" ends. Answers once when ready.
"""

import json
import resource
import sys
import time


def main(argv: list[str]) -> int:
    """Answers until told to end; argv[0] is the sizes as JSON."""
    import torch
    import transformers

    sizes = json.loads(argv[0])
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=sizes["vocab"],
        hidden_size=sizes["d_model"],
        intermediate_size=sizes["mlp"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["kv_heads"] or sizes["heads"],
        max_position_embeddings=sizes["length"],
        tie_word_embeddings=True,
    )
    has_gpu = torch.cuda.is_available()
    device = "cuda" if has_gpu else "cpu"
    model = transformers.LlamaForCausalLM(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    shape = (sizes["batch"], sizes["length"])
    ids = [torch.randint(3, sizes["vocab"], shape, device=device) for _ in range(2)]
    is_mixed = sizes["dtype"] == "bfloat16"

    def step(number: int) -> float:
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=is_mixed):
            loss = model(input_ids=ids[number % 2], labels=ids[number % 2]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if has_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    step(0)
    print("ready", flush=True)
    for number, line in enumerate(sys.stdin, start=1):
        if line.strip() == "step":
            print(step(number), flush=True)
        elif line.strip() == "memory":
            peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(torch.cuda.max_memory_allocated() if has_gpu else peak, flush=True)
        else:
            break
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
