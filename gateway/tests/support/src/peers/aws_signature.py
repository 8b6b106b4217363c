"""Reads a request as JSON; prints the signature that botocore makes of it."""
import json
import re
import sys

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

given = json.load(sys.stdin)
headers = {name.lower(): value for name, value in given["headers"]}
signed = re.search(r"SignedHeaders=([^,]+)", headers["authorization"]).group(1).split(";")
request = AWSRequest(
    method=given["method"],
    url=given["url"],
    headers={name: headers[name] for name in signed},
    data=given["body"].encode(),
)
request.context["timestamp"] = headers["x-amz-date"]
scheme = S3SigV4Auth if given["service"] == "s3" else SigV4Auth
auth = scheme(Credentials("unused", given["key"]), given["service"], given["region"])
text = auth.string_to_sign(request, auth.canonical_request(request))
print(auth.signature(text, request))
