"""Doors to librdkafka's cluster for tests, which knows neither users nor TLS: in front of each of its servers one that asks for both.

TLS is OpenSSL's, by way of Python; SCRAM is the package `scramp`, as a server. Whoever has logged in speaks with the server behind; what that
tells of the servers' addresses is changed to the doors'. Takes the settings as JSON, prints `listening HOST:PORT` of the first door, and
`login MECHANISM` for each user that came in.
"""

import asyncio
import json
import ssl
import struct
import sys

from confluent_kafka import Producer
from scramp import ScramException, ScramMechanism

METADATA, SASL_HANDSHAKE, SASL_AUTHENTICATE = 3, 17, 36
UNSUPPORTED_MECHANISM, AUTHENTICATION_FAILED = 33, 58
ROUNDS = 16384

wanted = json.loads(sys.argv[1])
scrams = {name: ScramMechanism(name) for name in ("SCRAM-SHA-256", "SCRAM-SHA-512")}
secrets = {name: one.make_auth_info(wanted["password"], iteration_count=ROUNDS) for name, one in scrams.items()}
doors = {}


class Refused(Exception):
    pass


async def frame(reader):
    (length,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(length)


def send(writer, payload):
    writer.write(struct.pack(">i", len(payload)) + payload)


def text(value):
    raw = value.encode()
    return struct.pack(">h", len(raw)) + raw


def raw(value):
    return struct.pack(">i", len(value)) + value


def head(request):
    """API, version, number, and what follows."""
    api, version, number, length = struct.unpack_from(">hhih", request)
    return api, version, number, request[10 + max(length, 0):]


def user_of(mechanism):
    def find(name):
        if name != wanted["user"]:
            raise Refused
        return secrets[mechanism]

    return find


def scram(mechanism):
    """Takes what a client says, and gives the answer to it."""
    server = scrams[mechanism].make_server(user_of(mechanism))
    server.set_client_first((yield).decode())
    server.set_client_final((yield server.get_server_first().encode()).decode())
    yield server.get_server_final().encode()


def plain():
    said = yield
    if said != f"\0{wanted['user']}\0{wanted['password']}".encode():
        raise Refused
    yield b""


async def log_in(reader, writer):
    """Lets a user in, as Kafka does it; what is asked before is not answered."""
    api, _, number, rest = head(await frame(reader))
    if api != SASL_HANDSHAKE:
        raise Refused
    mechanism = rest[2:].decode()
    known = [*scrams, *(["PLAIN"] if wanted["tls"] else [])]
    error = 0 if mechanism in known else UNSUPPORTED_MECHANISM
    send(writer, struct.pack(">ihi", number, error, len(known)) + b"".join(map(text, known)))
    if error:
        raise Refused
    steps = plain() if mechanism == "PLAIN" else scram(mechanism)
    count = 1 if mechanism == "PLAIN" else 2
    next(steps)
    for _ in range(count):
        api, _, number, rest = head(await frame(reader))
        if api != SASL_AUTHENTICATE:
            raise Refused
        (length,) = struct.unpack_from(">i", rest)
        try:
            answer = steps.send(rest[4:4 + length])
        except (Refused, ScramException):
            send(writer, struct.pack(">ih", number, AUTHENTICATION_FAILED) + text("Authentication failed") + raw(b""))
            raise Refused from None
        send(writer, struct.pack(">ihh", number, 0, -1) + raw(answer))
    print("login", mechanism, flush=True)


def with_doors(answer):
    """Metadata of version 4 with the doors' ports instead of the servers' own."""
    answer = bytearray(answer)
    at = 8
    (count,) = struct.unpack_from(">i", answer, at)
    at += 4
    for _ in range(count):
        (length,) = struct.unpack_from(">h", answer, at + 4)
        at += 6 + length
        struct.pack_into(">i", answer, at, doors[struct.unpack_from(">i", answer, at)[0]])
        (rack,) = struct.unpack_from(">h", answer, at + 4)
        at += 6 + max(rack, 0)
    return bytes(answer)


async def pass_on(reader, writer, behind):
    """One request and its answer after the other."""
    from_server, to_server = await asyncio.open_connection(behind.host, behind.port)
    try:
        while True:
            request = await frame(reader)
            api, version, _, _ = head(request)
            assert api != METADATA or version == 4, "the door knows this version alone"
            send(to_server, request)
            answer = await frame(from_server)
            send(writer, with_doors(answer) if api == METADATA else answer)
            await writer.drain()
    finally:
        to_server.close()


async def main():
    # Kept: the cluster ends with it.
    cluster = Producer({"test.mock.num.brokers": 2})
    behind = list(cluster.list_topics(wanted["topic"], timeout=20).brokers.values())
    context = None
    if wanted["tls"]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(wanted["tls"]["certificate"], wanted["tls"]["key"])
    addresses = []
    for server in behind:

        async def serve(reader, writer, server=server):
            try:
                await log_in(reader, writer)
                await pass_on(reader, writer, server)
            except (Refused, asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        doors[server.port] = listening.sockets[0].getsockname()[1]
        addresses.append(f"{server.host}:{server.port}")
    print("behind", addresses[0], flush=True)
    print(f"listening 127.0.0.1:{doors[behind[0].port]}", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
