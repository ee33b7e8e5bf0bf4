"""Celery's settings as the protocol needs them, from `FORESEEN_*`; a settings module, so importing it reads them.

A deployment's `celeryconfig.py` starts from these (`from foreseen.celery_settings import *`) and may change what is not
marked as needed.
"""

from __future__ import annotations

from foreseen.broker import transport_options
from foreseen.settings import Settings
from foreseen.tls import broker_address

_settings = Settings()

broker_url, broker_use_ssl = broker_address(_settings.broker_url)
broker_transport_options = transport_options(_settings)
if broker_url.startswith(("redis", "sentinel", "valkey")):
    # A connection that swallows everything is noticed after one to two of these, and a second. Not for producers, whose
    # connections would be asked first, before each message after as long a silence.
    broker_transport_options["health_check_interval"] = max(1, min(25, round(_settings.lease_s / 2)))
broker_connection_timeout = _settings.connect_timeout_s
broker_connection_retry_on_startup = True
broker_connection_max_retries = None  # a worker outlives any outage; it tries every two seconds (workers/consumer.py)

# Needed: nothing that arrives can run code.
accept_content = ["json", "msgpack"]
task_serializer = "json"
result_serializer = "json"

# Shows nothing of messages that it refuses; Celery's own writes their first kilobyte into the log.
worker_consumer = "workers.consumer:Consumer"

# Needed: a message is acked when its items have outcomes, and not because a process or its time ran out.
task_ignore_result = True
task_acks_late = True
task_acks_on_failure_or_timeout = True
task_acks_on_failure = True
task_acks_on_timeout = False
task_reject_on_worker_lost = True
worker_cancel_long_running_tasks_on_connection_loss = False

# One message in reserve for each slot: more would hoard work that another worker could begin.
worker_prefetch_multiplier = 1
# Needed: after a lost connection Celery would prefetch less and restore it as tasks end, from the threads of the pool
# that they end in; with AMQP, whose connections are for one thread, one waits for ever for what another has read.
worker_enable_prefetch_count_reduction = False
# A model loads before its process says that it is alive; Celery gives that 4 s by default.
worker_proc_alive_timeout = 300.0
# Flower and `celery events` turn them on when they come; unheard, they would cost a publish more for each message.
worker_send_task_events = False
task_send_sent_event = False
task_default_queue = f"{_settings.namespace}.default"
