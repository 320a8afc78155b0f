"""The paper's pretraining tasks that prepared clips serve today, under their SeqIO names.

Painting, stylization, audio-to-video and audio-video continuation join them with their issues.
(Paper, section on pretraining tasks; spec/videopoet.md section 4.1.)
"""

from poet.tokens import tasks
from tasks import registry

NAMES = tuple(f"poet_{name}" for name in tasks.TASKS)

for _task in tasks.TASKS.values():
    registry.register(f"poet_{_task.name}", _task)
