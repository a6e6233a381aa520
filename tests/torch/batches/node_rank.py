"""What torchrun starts on a node: a rank of a run, which is given as JSON."""

import json
import sys

from campaign.visits import Run, fit

fit(Run(**json.loads(sys.argv[1])))
