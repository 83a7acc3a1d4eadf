"""A server that speaks S3, as a process of its own: says in one JSON line where it is and who may come in, and ends with its input.

It checks signatures and rights (its first few requests aside, with which its one user is made), so a client that signs wrongly fails.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

FIRST = 4  # requests without a right: the user, its key, its policy, the bucket
os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = str(FIRST)
os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")

BUCKET = "files"
POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}


def main() -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"

    def client(service: str, key: str, secret: str) -> Any:
        return boto3.client(
            service, endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret
        )

    iam = client("iam", "nobody", "nothing")
    iam.create_user(UserName="imcore")
    key = iam.create_access_key(UserName="imcore")["AccessKey"]
    iam.put_user_policy(UserName="imcore", PolicyName="all", PolicyDocument=json.dumps(POLICY))
    client("s3", key["AccessKeyId"], key["SecretAccessKey"]).create_bucket(Bucket=BUCKET)
    print(json.dumps({"endpoint": endpoint, "key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}), flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
