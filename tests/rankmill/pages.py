"""A web server of Dagster as its pages talk to it: GraphQL.

run = Pages(address).start("nightly_job")
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any


@dataclass
class Pages:
    """What the pages ask of a web server at an address."""

    address: str

    def ask(self, query: str, **variables: Any) -> Any:
        """The one field that a query or mutation gives."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.address}/graphql", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error}: {error.read().decode()[:3000]}") from error  # the body says why
        assert "errors" not in answer, answer["errors"]
        (given,) = answer["data"].values()
        return given

    def start(self, job: str) -> str:
        """*Launch run* on the page of a job; gives the run's id."""
        places = self.ask(
            "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"
        )
        (place,) = places["nodes"]
        wanted = {
            "repositoryName": place["name"],
            "repositoryLocationName": place["location"]["name"],
            "jobName": job,
        }
        answer = self.ask(
            "mutation($wanted: ExecutionParams!) { launchRun(executionParams: $wanted) "
            "{ __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }",
            wanted={"selector": wanted},
        )
        return str(answer["run"]["runId"])

    def status_of_run(self, run: str) -> str:
        """What the page of a run says of it."""
        query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
        return str(self.ask(query, id=run)["status"])
