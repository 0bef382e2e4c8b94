#!/usr/bin/env python3
"""A backend in Python: one of several that share what clients send to /app/… It does what examples/backend.rs does, may run
beside it in the same group, and needs only pika (pip install pika). docs/backends.md explains it.

    AMQP_URL=amqp://guest:guest@127.0.0.1:5672/%2f python3 examples/backend.py one

Each message goes to one member of the group. It is acknowledged when the work is done: if the member dies before that,
RabbitMQ hands it to another. So a message may come twice, but always with the same id; those that this member has handled it
drops. Environment: AMQP_URL, WARREN_PREFIX (warren), WARREN_GROUP (example), and WORK_MS (0), how long a piece of work takes.
"""

import os
import signal
import sys
import time
from collections import OrderedDict

import pika
from pika.exceptions import AMQPError, UnroutableError

PREFETCH = 10  # messages handed over ahead of our acknowledgements; what one member holds, no other can work on
REDELIVERIES_MAX = 5  # how often a message is handed out again before it is parked
IDS_MAX = 10_000  # ids that are remembered, to drop repetitions
GREETING_INTERVAL_S = 5
RETRY_PAUSE_S = 1
LOOK_INTERVAL_S = 0.1  # how often it is looked whether to stop or to greet while nothing comes


class Backend:
    def __init__(self):
        self.name = sys.argv[1] if len(sys.argv) > 1 else str(os.getpid())
        self.url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f")
        self.prefix = os.environ.get("WARREN_PREFIX", "warren")
        self.group = os.environ.get("WARREN_GROUP", "example")
        self.work_s = int(os.environ.get("WORK_MS", "0")) / 1000
        self.handled = OrderedDict()  # ids, oldest first
        self.count = 0
        self.stopping = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: setattr(self, "stopping", True))

    def log(self, text):
        print(f"{self.name}: {text}", flush=True)

    def run(self):
        # RabbitMQ may be away for a while: then we begin anew, and it hands out again what we had not acknowledged.
        while not self.stopping:
            try:
                self.serve()
            except (AMQPError, OSError) as error:
                print(f"{self.name}: {error!r}; trying again", file=sys.stderr, flush=True)
                time.sleep(RETRY_PAUSE_S)
        self.log("stopped")

    def serve(self):
        """Handles one message after the other until told to stop."""
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_qos(prefetch_count=PREFETCH)
        queue = self.declare(channel)
        self.log(f"ready, takes from {queue}")
        greeting_due = time.monotonic()
        for method, properties, body in channel.consume(queue, inactivity_timeout=LOOK_INTERVAL_S):
            if method is not None:
                self.handle(channel, method, properties, body)
            if time.monotonic() >= greeting_due:
                self.greet(channel)
                greeting_due = time.monotonic() + GREETING_INTERVAL_S
            if self.stopping:  # what was in work is done by now
                break
        connection.close()

    def declare(self, channel):
        """Declares what must stand, each time alike: what stands already with other arguments is an error. The exchanges are
        Warren's, and here so that backends may be started first."""
        inbound, parked = f"{self.prefix}.inbound", f"{self.prefix}.dead-letters"
        for exchange, kind in (
            (inbound, "topic"),
            (f"{self.prefix}.broadcast", "fanout"),
            (f"{self.prefix}.direct", "direct"),
            (parked, "direct"),
        ):
            channel.exchange_declare(exchange, kind, durable=True)
        queue, dead = f"{self.prefix}.group.{self.group}", f"{self.prefix}.group.{self.group}.dead"
        quorum = {"x-queue-type": "quorum"}
        parks = {
            "x-delivery-limit": REDELIVERIES_MAX,
            "x-dead-letter-exchange": parked,
            "x-dead-letter-routing-key": queue,
            # Nothing is lost on the way to where it is parked; RabbitMQ wants the second for the first.
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
        channel.queue_declare(dead, durable=True, arguments=quorum)
        channel.queue_declare(queue, durable=True, arguments={**quorum, **parks})
        channel.queue_bind(dead, parked, queue)
        channel.queue_bind(queue, inbound, "#")  # all destinations; others: orders.# for /app/orders/…
        return queue

    def handle(self, channel, method, properties, body):
        message_id = properties.message_id
        if message_id in self.handled:
            self.log(f"dropped {message_id}, a repetition")
            channel.basic_ack(method.delivery_tag)
            return
        self.log(f"works on {message_id}")
        try:
            answer = self.work(channel.connection, body)
        except ValueError as error:
            # Back to the queue, for whoever may do better; too often, and RabbitMQ parks it.
            self.log(f"failed {message_id}: {error}")
            channel.basic_nack(method.delivery_tag, requeue=True)
            return
        self.publish(channel, "broadcast", "answers", answer)
        self.answer(channel, properties, answer)
        self.log(f"handled {message_id} to {method.routing_key}: {answer}")
        self.remember(message_id)
        channel.basic_ack(method.delivery_tag)

    def work(self, connection, body):
        """The work itself. Put yours here; it must bear to be done twice."""
        text = body.decode("utf-8")
        connection.sleep(self.work_s)  # answers heartbeats meanwhile, unlike time.sleep
        return f"{self.name} did {text}"

    def answer(self, channel, properties, answer):
        """Tells the session that asked, and nobody else."""
        headers = properties.headers or {}
        session, instance = headers.get("x-warren-session"), headers.get("x-warren-instance")
        if session and instance:
            # By this id the client knows which of its messages is answered.
            named = {"headers": {"x-warren-session": session}, "message_id": f"re-{properties.message_id}"}
            self.publish(channel, "direct", instance, answer, **named)

    def greet(self, channel):
        """Every few seconds, for whoever subscribes to /topic/to-frontend."""
        text = f"{self.name} is here and has handled {self.count} messages"
        self.publish(channel, "broadcast", "topic.to-frontend", text)

    def publish(self, channel, exchange, key, text, **properties):
        """Publishes, and waits until RabbitMQ has it."""
        exchange = f"{self.prefix}.{exchange}"
        described = pika.BasicProperties(content_type="text/plain; charset=utf-8", **properties)
        try:
            channel.basic_publish(exchange, key, text.encode(), described, mandatory=True)
        except UnroutableError:
            # The instance is gone, and the session with it; or there is no instance at all.
            print(f"{self.name}: nobody hears {exchange} {key}", file=sys.stderr, flush=True)

    def remember(self, message_id):
        """A message without an id is never taken for another."""
        self.count += 1
        if message_id is not None:
            self.handled[message_id] = True
        if len(self.handled) > IDS_MAX:
            self.handled.popitem(last=False)


if __name__ == "__main__":
    Backend().run()
