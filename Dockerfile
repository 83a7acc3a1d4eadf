# imcore with the Postgres of its own: docker run -v imcore:/data -p 3101:3101 -p 3102:3102 -p 3111:3111 imcore
# On a real Postgres: docker-compose.yml.
FROM python:3.11-slim

WORKDIR /opt/imcore
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin imcore && install -d -o imcore -g imcore /data
USER imcore
WORKDIR /data
VOLUME /data

# goim's ports: TCP, WebSocket, HTTP.
EXPOSE 3101 3102 3111
# Inside the container every interface; which of the ports are published is decided outside.
ENV IMCORE_DATA=/data IMCORE_HTTP=0.0.0.0:3111 IMCORE_WS=0.0.0.0:3102 IMCORE_TCP=0.0.0.0:3101
STOPSIGNAL SIGTERM
ENTRYPOINT ["imcore"]
CMD ["serve"]
