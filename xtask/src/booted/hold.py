# One connection that is asked over and over: `serve PORT` answers, `hold ADDRESS
# PORT FILE` asks, and has in the file how many answers came, or why no more come.
import itertools
import os
import socket
import sys
import threading
import time

LENGTH = 8


def receive(stream):
    data = b""
    while len(data) < LENGTH:
        part = stream.recv(LENGTH - len(data))
        if not part:
            raise EOFError("the other end closed")
        data += part
    return data


def answer(stream):
    with stream:
        try:
            while True:
                stream.sendall(receive(stream))
        except (OSError, EOFError):
            pass


def tell(file, text):
    # Whole or not at all: somebody reads it all the time.
    with open(file + ".new", "w") as new:
        new.write(text + "\n")
    os.rename(file + ".new", file)


def hold(address, port, file):
    try:
        with socket.create_connection((address, port), 5) as stream:
            for count in itertools.count(1):
                asked = b"%*d" % (LENGTH, count)
                stream.sendall(asked)
                answered = receive(stream)
                if answered != asked:
                    raise EOFError("%r for %r" % (answered, asked))
                tell(file, str(count))
                time.sleep(0.05)
    except (OSError, EOFError) as error:
        tell(file, "broken: %s" % error)


if sys.argv[1] == "serve":
    listener = socket.create_server(("", int(sys.argv[2])))
    while True:
        threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()
hold(sys.argv[2], int(sys.argv[3]), sys.argv[4])
