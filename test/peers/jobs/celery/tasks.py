"""The job of the bench. What it shall do stands in the environment, as main.go's spec."""
import json
import os
import time

from celery import Celery

spec = json.loads(os.environ["LEVEE_PEERS_JOBS"])
app = Celery("bench", broker="redis://%s/%d" % (spec["redis"], spec["redis_db"]))
app.conf.task_ignore_result = True
app.conf.broker_connection_retry_on_startup = True
events = os.open(spec["events"], os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
late = {"acks_late": True, "reject_on_worker_lost": True} if spec["late"] else {}


@app.task(bind=True, **late)
def job(self, n, sent, hold):
    os.write(events, b"START %d %d %d %d\n" % (n, self.request.retries + 1, time.time_ns(), sent))
    if hold:
        time.sleep(hold)
