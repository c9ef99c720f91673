"""A reranker that costs nothing and speaks the protocol of `inference.server.ranker`: words shared with the query.

    python cheap_reranker.py [--load SECONDS] [--per-list SECONDS]

A query that begins with one of these words brings out another side of it: `sleep:0.5`, `malformed`, `garbled` (an order
that is none), `score:JSON` (scores of the list in its order), `refuse`, `die`, `babble` (a line that is no JSON). What
it heard is told when asked for `heard`.
Lists are answered in the order they came, one at a time; a cancelled one is not.
"""

import argparse
import json
import os
import queue
import sys
import threading
import time

parser = argparse.ArgumentParser()
parser.add_argument("--load", type=float, default=0.0)
parser.add_argument("--per-list", type=float, default=0.0)
options = parser.parse_args()
lists: queue.Queue[dict] = queue.Queue()
cancelled: set[int] = set()
answered: list[int] = []


def say(message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def read() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if "cancel" in message:
            cancelled.add(message["cancel"])
        else:
            lists.put(message)
    os._exit(0)


threading.Thread(target=read, daemon=True).start()
time.sleep(options.load)
say({"ready": {"device": "none"}})
while True:
    asked = lists.get()
    if asked["id"] in cancelled:
        continue
    mood, _, value = asked["query"].split()[0].partition(":")
    time.sleep(float(value) if mood == "sleep" else options.per_list)
    if mood == "die":
        os._exit(3)
    if mood == "babble":
        sys.stdout.write("this is no JSON\n")
        sys.stdout.flush()
        continue
    if mood == "refuse":
        say({"id": asked["id"], "refused": "a window may take 9000 tokens, the model holds 2048"})
        continue
    answered.append(asked["id"])
    words = set(asked["query"].lower().split())
    shared = [-len(words & set(text.lower().split())) for text in asked["documents"]]
    order = sorted(range(len(shared)), key=lambda place: (shared[place], place))
    answer = {"id": asked["id"], "order": order, "calls": 2, "malformed": {}, "input_tokens": 30, "output_tokens": 7}
    if mood == "malformed":
        answer |= {"order": list(range(len(order))), "malformed": {"tags": 1, "list": 1}}
    if mood == "garbled":
        answer |= {"order": [0] * len(order)}
    if mood == "score":
        answer |= {"scores": json.loads(value)}
    if mood == "heard":
        secrets = sum(name.endswith(("KEY", "TOKEN")) for name in os.environ)
        answer |= {"calls": len(answered), "input_tokens": len(cancelled), "output_tokens": secrets}
    say(answer)
