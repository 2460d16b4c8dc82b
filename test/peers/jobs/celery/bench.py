"""What child.go does for engines in Go, for Celery: one deed, whose figures are the last line. The worker is a process of its own."""
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import time

import redis

import tasks

spec = tasks.spec
host, port = spec["redis"].split(":")
server = redis.Redis(host=host, port=int(port), db=spec["redis_db"])
COMMAND = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--concurrency", "2", "--loglevel", "ERROR"]


class Worker:
    def __enter__(self):
        self.process = subprocess.Popen(COMMAND)
        return self

    def __exit__(self, *_):
        # At once: an orderly end takes seconds, and the store is thrown away.
        for pid in reversed(self.tree()):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def tree(self):
        """The ids of the worker and its children."""
        found = [self.process.pid]
        for pid in found:
            try:
                with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
                    found += [int(p) for p in f.read().split()]
            except OSError:
                pass
        return found

    def rss(self):
        total = 0
        for pid in self.tree():
            with open("/proc/%d/status" % pid) as f:
                total += sum(int(line.split()[1]) << 10 for line in f if line.startswith("VmRSS:"))
        return total

    def cpu(self):
        ticks = 0
        for pid in self.tree():
            with open("/proc/%d/stat" % pid) as f:
                words = f.read().rpartition(") ")[2].split()
            ticks += int(words[11]) + int(words[12])
        return ticks / os.sysconf("SC_CLK_TCK")


class Starts:
    """Reads the lines that jobs have written since it was made."""

    def __init__(self):
        self.file = open(spec["events"])
        self.file.seek(0, os.SEEK_END)
        self.rest = ""

    def take(self, n, most=1800):
        """Waits for n starts and returns (at, sent) of each."""
        got, end = [], time.time() + most
        while len(got) < n:
            text = self.rest + self.file.read()
            whole, _, self.rest = text.rpartition("\n")
            got += [tuple(map(int, line.split()[3:5])) for line in whole.splitlines()]
            if len(got) < n:
                if time.time() > end:
                    sys.exit("%d of %d jobs started within %d s" % (len(got), n, most))
                time.sleep(0.002)
        return got


def left():
    return server.llen("celery") + server.hlen("unacked")


def settle():
    while left():
        time.sleep(0.002)


def spread(each):
    """Times in seconds, told in milliseconds."""
    each = sorted(each)
    at = lambda share: 1000 * each[min(int(share * len(each)), len(each) - 1)]
    return {"p50": at(0.5), "p99": at(0.99), "max": at(1), "min": at(0), "n": len(each)}


def send(n, due=None):
    if due is None:
        tasks.job.apply_async((n, time.time_ns(), 0))
    else:
        tasks.job.apply_async((n, int(due * 1e9), 0), eta=datetime.datetime.fromtimestamp(due, datetime.timezone.utc))


def throughput():
    n = spec["jobs"]
    starts = Starts()
    began = time.time()
    for i in range(n):
        send(i)
    out = {"put": n / (time.time() - began)}
    with Worker():
        got = [at for at, _ in starts.take(n)]
        settle()
        out["run"] = n / (time.time() - min(got) / 1e9)  # without the start of the interpreter
        began = time.time()
        for i in range(n):
            send(i)
        starts.take(n)
        settle()
        out["through"] = n / (time.time() - began)
    return out


def idle():
    starts, each = Starts(), []
    with Worker():
        send(0)
        starts.take(1, 60)
        end = time.time() + spec["budget"]
        while len(each) < spec["jobs"] and time.time() < end:
            time.sleep(0.02 + random.random() * 0.1)
            send(0)
            at, sent = starts.take(1, 60)[0]
            each.append((at - sent) / 1e9)
    return spread(each)


def fill():
    before, tomorrow = server.info("memory")["used_memory"], time.time() + 86400
    began = time.time()
    for i in range(spec["future"]):
        send(i, tomorrow + i / 1000)
    took = time.time() - began
    return {"put": spec["future"] / took, "size": server.info("memory")["used_memory"] - before}


def node():
    starts = Starts()
    with Worker() as worker:
        warm, began = spec["warm"] // 5, time.time()
        for i in range(warm):
            send(i)
        starts.take(warm)
        out = {"ready": time.time() - began}
        time.sleep(spec["rest"])
        out["rss"] = worker.rss()
        cpu, began = worker.cpu(), time.time()
        time.sleep(spec["rest"])
        out["cpu"] = (worker.cpu() - cpu) / (time.time() - began) * 1000
        n = spec["jobs"]
        if n:
            base = time.time() + 1 + n / 1500
            for i in range(n):
                send(i, base + i / n * spec["spread"])
            if time.time() > base:
                sys.exit("the delayed jobs were put too late")
            out.update(spread([(at - due) / 1e9 for at, due in starts.take(n)]))
    return out


def put():
    for i in range(spec["jobs"]):
        tasks.job.apply_async((spec["first"] + i, time.time_ns(), spec["hold"]))
        if i + 1 < spec["jobs"]:
            time.sleep((0.5 + random.random()) * spec["gap"])
    return {}


def work():
    os.execv(COMMAND[0], COMMAND)


deeds = {"throughput": throughput, "idle": idle, "fill": fill, "node": node, "put": put, "work": work, "left": lambda: {"left": left()}}
print("\nRESULT " + json.dumps(deeds[spec["do"]]()), flush=True)
