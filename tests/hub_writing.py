"""What the Hub of hub_server.py takes, in the forms of huggingface_hub 2.4: repositories, files of Git LFS, commits.

OWNER is the account of TOKEN, and the only one it may write for; TOKEN_TO_READ may write nowhere.
"""

from __future__ import annotations

import base64
import hashlib
import json

OWNER = "somebody"
TOKEN_TO_READ = "hf_aTokenThatMayOnlyRead"
ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
_LFS = "application/vnd.git-lfs+json"


class Writing:
    """The part of an answer that writes; `hub`, `token` and the replies are those of hub_server's answers."""

    def write(self, path):
        """Answer a POST, with `self.body` in it."""
        if path == "/api/validate-yaml":
            return self.reply_json(self.faults_of_card(json.loads(self.body)["content"]))
        if path == "/api/repos/create":
            return self.create(json.loads(self.body))
        parts = path.strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2]).removesuffix(".git")
        if self.may_not_write(name.split("/")[0]):
            return None
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self.refuse(404, "RepoNotFound", "Repository not found")
        if path.endswith("/info/lfs/objects/batch"):
            return self.batch(name, json.loads(self.body))
        if path.endswith("/info/lfs/verify"):
            return self.verify(json.loads(self.body))
        if parts[4:] == ["preupload", "main"]:
            return self.preupload(repository, json.loads(self.body)["files"])
        assert parts[4:] == ["commit", "main"], path
        assert self.headers["Content-Type"] == "application/x-ndjson"
        return self.commit(name, repository, [json.loads(line) for line in self.body.splitlines()])

    def may_not_write(self, owner):
        if self.token not in (self.known, TOKEN_TO_READ):
            self.refuse(401, None, "Invalid credentials in Authorization header")
        elif self.token == TOKEN_TO_READ or owner != OWNER:
            self.refuse(403, None, f'You don\'t have the rights to create a model under the namespace "{owner}"')
        else:
            return False
        return True

    def faults_of_card(self, content):
        found = [] if content.startswith("---\n") else [{"message": "empty or missing yaml metadata in repo card"}]
        return {"errors": [], "warnings": found}

    def create(self, wanted):
        name = f"{wanted['organization']}/{wanted['name']}"
        if self.may_not_write(wanted["organization"]):
            return None
        address = {"url": f"{self.hub.address}/{name}"}
        if name in self.hub.repositories:
            return self.reply_json({"error": "You already created this model repo", **address}, 409)
        assert wanted["visibility"] in ("private", "public")
        commit = hashlib.sha1(name.encode()).hexdigest()
        made = self.hub.add(name, {".gitattributes": ATTRIBUTES}, commit, private=wanted["visibility"] == "private")
        made.refs.pop("v1")
        return self.reply_json({"name": name, "id": "621ffdc036468d709f17434d", **address})

    def preupload(self, repository, files):
        assert all(len(base64.b64decode(file["sample"])) == min(512, file["size"]) for file in files)
        answers = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if self.in_lfs(file["path"]) else "regular",
                "shouldIgnore": False,
                "oid": self.oid(repository, file["path"]),
            }
            for file in files
        ]
        return self.reply_json({"files": answers, "commitOid": repository.refs["main"]})

    def oid(self, repository, path):
        """As a client computes it: of the pointer's content for Git LFS, its SHA-256."""
        content = repository.commits[repository.refs["main"]].get(path)
        if content is None:
            return None
        return hashlib.sha256(content).hexdigest() if self.in_lfs(path) else self.git_hash(content)

    def batch(self, name, wanted):
        assert self.headers["Accept"] == self.headers["Content-Type"] == _LFS
        assert (wanted["operation"], wanted["hash_algo"], wanted["ref"]) == ("upload", "sha256", {"name": "main"})
        objects = []
        for one in wanted["objects"]:
            href = f"{self.hub.storage}/{one['oid']}/upload?X-Signature={one['oid'][:16]}"
            verify = f"{self.hub.address}/{name}.git/info/lfs/verify"
            actions = {"upload": {"href": href, "header": {}}, "verify": {"href": verify, "header": {}}}
            there = {} if one["oid"] in self.hub.stored else {"actions": actions}
            objects.append({**one, **there})
        return self.reply_json({"transfer": "basic", "objects": objects}, headers={"Content-Type": _LFS})

    def verify(self, wanted):
        if len(self.hub.stored.get(wanted["oid"], b"")) != wanted["size"]:
            return self.refuse(404, None, "The file is not there")
        return self.reply_json({"message": "verified"})

    def commit(self, name, repository, lines):
        """Take all of it, or nothing."""
        assert lines[0]["key"] == "header"
        assert lines[0]["value"]["summary"]
        files = dict(repository.commits[repository.refs["main"]])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
                continue
            if line["key"] == "lfsFile" and value["oid"] not in self.hub.stored:
                return self.refuse(400, None, f"LFS pointer pointed to a file that does not exist: {value['path']}")
            stored = line["key"] == "lfsFile"
            files[value["path"]] = self.hub.stored[value["oid"]] if stored else base64.b64decode(value["content"])
        commit = hashlib.sha1(self.body).hexdigest()
        repository.commits[commit] = files
        repository.refs["main"] = commit
        address = f"{self.hub.address}/{name}/commit/{commit}"
        return self.reply_json({"success": True, "commitOid": commit, "commitUrl": address, "hookOutput": ""})

    def put(self, path):
        """Answer a PUT at the storage."""
        wanted = path.split("/")[1]
        if hashlib.sha256(self.body).hexdigest() != wanted:
            return self.reply(400, b"<Error><Code>BadDigest</Code></Error>")
        self.hub.stored[wanted] = self.body
        return self.reply(200, headers={"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})
