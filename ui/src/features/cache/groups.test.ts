// Where a record belongs, by what the engine says of it.
import { describe, expect, test } from "vitest";
import type { CacheRecord } from "../../host/types";
import { groups, place } from "./groups";

const record = (fields: Partial<CacheRecord>): CacheRecord => ({
  id: "r", description: "", type: "regular", project: "", build: "", step: "", rebuildMilliseconds: 0, bytes: 0, created: 0,
  lastUsed: 0, usageCount: 1, inUse: false, shared: false, mutable: false, pinned: false, parents: [], ...fields,
});

describe("a record's place", () => {
  test.each<[string, Partial<CacheRecord>, { project: string; stage: string; title: string }]>([
    ["a step, by the build's own name for it", { project: "shop", step: "[build 2/6] RUN make" }, { project: "shop", stage: "build", title: "RUN make" }],
    ["a step of one platform", { project: "shop", step: "[linux/arm64 build 2/6] RUN make" }, { project: "shop", stage: "build", title: "RUN make" }],
    ["a step of a Dockerfile without names", { project: "shop", step: "[2/3] COPY . ." }, { project: "shop", stage: "Steps", title: "COPY . ." }],
    ["a step of which only the command is known", { description: "mount / from exec /bin/sh -c make" }, { project: "Without a project", stage: "Steps", title: "RUN make" }],
    ["a base image, whichever project pulled it", { project: "shop", description: `pulled from docker.io/library/debian:12@sha256:${"a".repeat(64)}` }, { project: "Base images", stage: "debian:12", title: "debian:12" }],
    ["a cache mount, with the build that had it last", { type: "exec.cachemount", build: "b1", description: 'cached mount /cache/npm from exec /bin/sh -c npm ci with id "npm"' }, { project: "of b1", stage: "Cache mounts", title: "/cache/npm" }],
    ["a build's context", { project: "shop", type: "source.local", description: "local source for context" }, { project: "shop", stage: "Build contexts", title: "context" }],
  ])("%s", (_, fields, wanted) => {
    expect(place(record(fields), (build) => (build ? `of ${build}` : undefined))).toEqual(wanted);
  });
});

test("a group comes to the sum of its records, and is in use where one of them is", () => {
  const list = [
    record({ id: "a", project: "x", bytes: 1, rebuildMilliseconds: 10, lastUsed: 5 }),
    record({ id: "b", project: "y", bytes: 9, lastUsed: null }),
    record({ id: "c", project: "x", bytes: 2, rebuildMilliseconds: 20, lastUsed: 7, inUse: true }),
  ];
  const found = groups(list, (r) => r.project);
  expect(found.map((g) => g.title)).toEqual(["y", "x"]);
  expect(found[0]).toMatchObject({ bytes: 9, lastUsed: null, inUse: false });
  expect(found[1]).toMatchObject({ bytes: 3, rebuild: 30, lastUsed: 7, inUse: true });
});
