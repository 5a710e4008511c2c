"""A mail server for tests: SMTP (RFC 5321) with STARTTLS, TLS, AUTH, 8BITMIME and SMTPUTF8, that can be told to misbehave.

    server.py FOLDER [--tls starttls|wrapped --certificate FILE] [--auth USER:PASSWORD] [--plain-ascii] [--inject]
              [--answer STAGE=CODE[*TIMES]] [--drop STAGE[*TIMES]] [--hold STAGE[*TIMES]]

It prints `listening PORT`, and ends when its standard input does. What it has accepted lies in FOLDER: `1.eml`, `2.eml` ... as it came,
and `1.json` with the envelope. `journal` has one line for each command, in order; passwords are in it, as this is what is tested.

Stages: CONNECT, EHLO, STARTTLS, AUTH, MAIL, RCPT, DATA (before its content), BODY (after the content's first line), END (after the
content; what is held or dropped there is in the inbox already). `--answer` refuses there, `--drop` closes the connection, `--hold` waits
for a line `release` on standard input and goes on. With TIMES only so often, and then as usual.
"""

import argparse
import base64
import json
import os
import socketserver
import ssl
import sys
import threading


class Gone(Exception):
    """The client has gone, or is to be gone."""


class Script:
    """What to do at which stage, and how often."""

    def __init__(self, rules):
        self.lock = threading.Lock()
        self.rules = {}
        for rule in rules or []:
            rule, _, times = rule.partition("*")
            stage, _, value = rule.partition("=")
            self.rules[stage] = [value, int(times) if times else -1]

    def take(self, stage):
        """The rule's value, if there is one that still counts."""
        with self.lock:
            rule = self.rules.get(stage)
            if rule is None or rule[1] == 0:
                return None
            rule[1] -= 1
            return rule[0]


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, options):
        super().__init__(("127.0.0.1", 0), Session)
        self.options = options
        self.answers, self.drops, self.holds = (Script(rules) for rules in (options.answer, options.drop, options.hold))
        self.released = threading.Event()
        self.lock = threading.Lock()
        self.count = 0
        self.context = None
        if options.tls:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(options.certificate)

    def journal(self, line):
        with self.lock, open(os.path.join(self.options.folder, "journal"), "a", encoding="utf-8") as journal:
            journal.write(line + "\n")

    def keep(self, envelope, content):
        with self.lock:
            self.count += 1
            base = os.path.join(self.options.folder, str(self.count))
            with open(base + ".eml", "wb") as mail:
                mail.write(content)
            # Last and at once: whoever sees it sees all of it.
            with open(base + ".part", "w", encoding="utf-8") as part:
                json.dump(envelope, part)
            os.rename(base + ".part", base + ".json")


class Session(socketserver.BaseRequestHandler):
    def handle(self):
        self.encrypted = False
        self.user = None
        try:
            if self.server.options.tls == "wrapped":
                self.encrypt()
            self.take_stream()
            self.stage("CONNECT")
            self.say("220 mail.example.org ready")
            while self.command():
                pass
        except (Gone, OSError):
            self.server.journal("gone")

    def take_stream(self):
        self.stream = self.request.makefile("rb")
        self.reset()

    def reset(self):
        self.sender, self.recipients, self.parameters = None, [], []

    def encrypt(self):
        self.request = self.server.context.wrap_socket(self.request, server_side=True)
        self.encrypted = True

    def say(self, text):
        self.request.sendall((text + "\r\n").encode())

    def line(self):
        line = self.stream.readline(70_000)
        if not line.endswith(b"\r\n"):
            raise Gone
        return line[:-2].decode("utf-8")

    def stage(self, name):
        """False: it was refused here, and that was said."""
        if self.server.drops.take(name) is not None:
            self.server.journal("dropped at " + name)
            raise Gone
        if self.server.holds.take(name) is not None:
            self.server.journal("held at " + name)
            self.server.released.wait()
        code = self.server.answers.take(name)
        if code is None:
            return True
        # As real servers do, with the address in it.
        enhanced = code[0] + ".7.1 " if code[0] in "45" else ""
        self.say(f"{code} {enhanced}not so: {' '.join(self.recipients) or 'no'}")
        return False

    def command(self):
        line = self.line()
        self.server.journal(("tls " if self.encrypted else "clear ") + line)
        verb, _, rest = line.partition(" ")
        commands = {
            "EHLO": self.ehlo, "STARTTLS": self.starttls, "AUTH": self.auth, "MAIL": self.mail, "RCPT": self.rcpt,
            "DATA": self.data,
        }
        verb = verb.upper()
        if verb == "QUIT":
            self.say("221 bye")
            return False
        if verb in ("NOOP", "RSET"):
            self.say("250 so be it")
        elif verb in commands:
            commands[verb](rest)
        else:
            self.say("502 unknown")
        return True

    def ehlo(self, _):
        if not self.stage("EHLO"):
            return
        lines = ["mail.example.org", "8BITMIME", "PIPELINING", "SIZE 1000000"]
        if not self.server.options.plain_ascii:
            lines.append("SMTPUTF8")
        if self.server.options.tls == "starttls" and not self.encrypted:
            lines.append("STARTTLS")
        if self.server.options.auth and (self.encrypted or not self.server.options.tls):
            lines.append("AUTH " + self.server.options.mechanisms)
        for line in lines[:-1]:
            self.say("250-" + line)
        self.say("250 " + lines[-1])

    def starttls(self, _):
        if self.encrypted or self.server.options.tls != "starttls":
            self.say("503 not now")
            return
        if not self.stage("STARTTLS"):
            return
        injected = "\r\n250-mail.example.org\r\n250 AUTH PLAIN" if self.server.options.inject else ""
        self.say("220 go ahead" + injected)
        self.encrypt()
        self.take_stream()

    def auth(self, rest):
        mechanism, _, initial = rest.partition(" ")
        if mechanism == "PLAIN":
            _, user, password = base64.b64decode(initial or self.ask("")).decode().split("\0")
        else:
            user, password = (base64.b64decode(self.ask(word)).decode() for word in ("Username:", "Password:"))
        if not self.stage("AUTH"):
            return
        if f"{user}:{password}" == self.server.options.auth:
            self.user = user
            self.say("235 2.7.0 welcome")
        else:
            self.say("535 5.7.8 no")

    def ask(self, word):
        self.say("334 " + base64.b64encode(word.encode()).decode())
        line = self.line()
        self.server.journal("answer " + line)
        return line

    def mail(self, rest):
        if self.server.options.auth and self.user is None:
            self.say("530 5.7.0 sign in first")
            return
        if not self.stage("MAIL"):
            return
        self.reset()
        self.sender, *self.parameters = rest[len("FROM:"):].split(" ")
        self.say("250 2.1.0 good")

    def rcpt(self, rest):
        if self.sender is None:
            self.say("503 whose?")
            return
        recipient = rest[len("TO:"):]
        self.recipients.append(recipient)
        if not self.stage("RCPT"):
            self.recipients.pop()
            return
        if not recipient.isascii() and "SMTPUTF8" not in self.parameters:
            self.say("553 5.6.7 not without SMTPUTF8")
            return
        self.say("250 2.1.5 good")

    def data(self, _):
        if not self.recipients:
            self.say("503 to whom?")
            return
        if not self.stage("DATA"):
            return
        self.say("354 go on")
        content = []
        while (line := self.stream.readline(70_000)) != b".\r\n":
            if not line.endswith(b"\r\n"):
                raise Gone
            content.append(line[1:] if line.startswith(b".") else line)
            if len(content) == 1:
                self.stage("BODY")
        refused = self.server.answers.take("END")
        if refused is not None:
            self.say(f"{refused} {refused[0]}.3.0 not this one")
            return
        envelope = {
            "from": self.sender, "to": self.recipients, "parameters": self.parameters, "user": self.user,
            "tls": self.encrypted,
        }
        self.server.keep(envelope, b"".join(content))
        self.stage("END")
        self.reset()
        self.say("250 2.0.0 taken")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--tls", choices=["starttls", "wrapped"])
    parser.add_argument("--certificate")
    parser.add_argument("--auth")
    parser.add_argument("--mechanisms", default="PLAIN LOGIN")
    parser.add_argument("--plain-ascii", action="store_true")
    parser.add_argument("--inject", action="store_true")
    for name in ("--answer", "--drop", "--hold"):
        parser.add_argument(name, action="append")
    server = Server(parser.parse_args())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("listening", server.server_address[1], flush=True)
    for line in sys.stdin:
        if line.strip() == "release":
            server.released.set()


main()
