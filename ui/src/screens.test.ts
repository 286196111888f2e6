// What people do on the screens, and what reaches the host.
import { screen, waitFor, within } from "@testing-library/svelte";
import userEvent from "@testing-library/user-event";
import { describe, expect, test, vi } from "vitest";
import { accessible, open } from "../tests/render";
import { recordings } from "./host/mock";
import { summary } from "./host/recorded";

// jsdom has no layout, so a windowed list would show nothing.
vi.mock("virtua/svelte", async () => ({ VList: (await import("../tests/PlainList.svelte")).default }));

const ref = (name: string): string => recordings.find((r) => r.name === name)!.record.Ref;
// bits-ui closes the page to pointers while a dialog of the test before fades.
const user = () => userEvent.setup({ pointerEventsCheck: 0 });

describe("builds", () => {
  test("lists history with status in words, and is accessible", async () => {
    open("builds");
    expect(await screen.findByText("63 builds".replace("63", "7"))).toBeVisible();
    expect(screen.getAllByText("Failed").length).toBeGreaterThan(1);
    await accessible();
  });
  test("is moved through by keys: filter, select, open", async () => {
    open("builds");
    await screen.findByText("7 builds");
    const u = user();
    await u.keyboard("/");
    await u.keyboard("api");
    expect(await screen.findByText("2 of 7 builds")).toBeVisible();
    await u.keyboard("{Escape}j{Enter}");
    expect(await screen.findByRole("heading", { level: 1, name: /Failed in .* at RUN sh/ })).toBeVisible();
  });
  test("says which client asked, and shows those of one alone", async () => {
    const host = open("builds");
    await screen.findByText("7 builds");
    expect(screen.getAllByText("buildx")).toHaveLength(7);
    // With one client there is nothing to choose.
    expect(screen.queryByRole("combobox", { name: "Client" })).toBeNull();
    const build = { ...summary(recordings[0]!), client: "kiln" };
    host.emitBuilds({ reset: false, changed: [build, { ...build, ref: "unknown", client: "" }], removed: [] });
    await screen.findByText("8 builds");
    const choice = screen.getByRole("combobox", { name: "Client" });
    expect(within(choice).getAllByRole("option").map((option) => option.textContent)).toEqual(["by any client", "by buildx", "by kiln"]);
    await user().selectOptions(choice, "kiln");
    expect(await screen.findByText("1 of 8 builds")).toBeVisible();
    expect(screen.getByText("kiln", { selector: "[title='Asked for by kiln']" })).toBeVisible();
  });
  test("an active build shows its step and is cancelled", async () => {
    const host = open("builds", { live: { name: "webshop-first", share: 0.62 } });
    const card = await screen.findByRole("article", { name: "webshop is building" });
    expect(await within(card).findByText(/done · .* running/)).toBeVisible();
    await user().click(within(card).getByRole("button", { name: "Cancel" }));
    expect(host.calls.at(-1)?.name).toBe("cancelBuild");
  });
  test("teaches when there is nothing", async () => {
    open("builds", { empty: true });
    expect(await screen.findByText("No builds yet")).toBeVisible();
    expect(screen.getByText(/docker buildx create --name kiln/)).toBeVisible();
  });
  test("a deleted build can be had back", async () => {
    const host = open("builds");
    await screen.findByText("7 builds");
    const u = user();
    await u.click(screen.getAllByRole("checkbox")[0]!);
    await u.click(screen.getByRole("button", { name: "Delete 1 build" }));
    expect(await screen.findByText("6 builds")).toBeVisible();
    await u.click(screen.getByRole("button", { name: "Undo" }));
    expect(await screen.findByText("7 builds")).toBeVisible();
    expect(host.calls.some((c) => c.name === "deleteBuilds")).toBe(false);
  });
});

describe("a build", () => {
  test("that failed opens on the line, with the log's end", async () => {
    open(`build/${ref("api-failed")}`);
    expect(await screen.findByText("What the step printed last")).toBeVisible();
    expect(screen.getByText("line 6")).toBeVisible();
    expect(screen.getByText(/not found in this scope/)).toBeVisible();
    await accessible();
  });
  test("says what to try when the message tells", async () => {
    open(`build/${ref("webshop-syntax")}`);
    expect(await screen.findByText("Did you mean CMD? Change the marked line.")).toBeVisible();
  });
  test("says why each step ran", async () => {
    open(`build/${ref("webshop-changed")}?tab=steps`);
    expect((await screen.findAllByText("ran: src/checkout.js changed")).length).toBeGreaterThan(0);
  });
  test("says how large its image is, and what became of it since the build before", async () => {
    open(`build/${ref("webshop-changed")}?tab=outputs`);
    const change = await screen.findByRole("link", { name: "100.0 kB larger than the last build" });
    expect(change).toHaveAttribute("href", expect.stringContaining(ref("webshop-cached")));
    expect(screen.getByText("124.6 MB")).toBeVisible();
    await accessible();
  });
  test("says where its image is as large as before, and nothing where nothing is known of it", async () => {
    open(`build/${ref("webshop-cached")}?tab=outputs`);
    expect(await screen.findByRole("link", { name: "as large as the last build" })).toBeVisible();
    location.hash = `#/build/${ref("api-first")}?tab=outputs`;
    expect(await screen.findByText("247.1 MB")).toBeVisible();
    expect(screen.queryByText(/the last build/)).toBeNull();
  });
  test("finds lines of its log", async () => {
    open(`build/${ref("docs-export")}?tab=logs`);
    await user().type(await screen.findByRole("textbox", { name: "Search logs" }), "link 1711 ");
    expect(await screen.findByText("1 line matches")).toBeVisible();
  });
  test("is compared with another: steps and inputs that differ", async () => {
    open(`compare/${ref("webshop-changed")}?with=${ref("webshop-cached")}`);
    expect(await screen.findByText("registry.example.com/shop/webshop:2.3.1", { selector: "td" })).toBeVisible();
    expect(await screen.findByText("COPY src ./src")).toBeVisible();
    expect(screen.queryByText("WORKDIR /app")).toBeNull();
    await user().click(screen.getByRole("checkbox", { name: /^Also the \d+ that are alike$/ }));
    expect(screen.getByText("WORKDIR /app")).toBeVisible();
    await accessible();
  });
  test("that is unknown says so", async () => {
    open("build/nothing");
    expect(await screen.findByText("There is no such build.")).toBeVisible();
  });
});

test("a new build asks only what the Dockerfile uses, and shows its command", async () => {
  const host = open("new?folder=/home/ada/src/webshop");
  const u = user();
  const env = await screen.findByLabelText("NODE_ENV");
  await u.clear(env);
  await u.type(env, "test");
  expect(screen.getByText(/--build-arg NODE_ENV=test/)).toBeVisible();
  await u.selectOptions(screen.getByLabelText("Dockerfile"), "deploy/Dockerfile.worker");
  await u.click(screen.getByRole("button", { name: "Build" }));
  expect(await screen.findByText(/Say where the secret “token” comes from/)).toBeVisible();
  await u.type(screen.getByLabelText("File of token"), "/home/ada/token");
  await u.click(screen.getByRole("button", { name: "Build" }));
  await waitFor(() => expect(host.calls.find((c) => c.name === "startBuild")?.args[0]).toMatchObject({ dockerfile: "deploy/Dockerfile.worker", secrets: [{ id: "token", source: "file", value: "/home/ada/token" }] }));
});

describe("the form of a new build", () => {
  test("shows which checks the Dockerfile breaks, and what its target takes", async () => {
    const host = open("new?folder=/home/ada/src/webshop");
    const checks = await screen.findByRole("region", { name: "Checks" });
    expect(await within(checks).findByText("One check is broken")).toBeVisible();
    expect(within(checks).getByText("line 20")).toBeVisible();
    expect(screen.getByText("development keeps source maps")).toBeVisible();
    await user().selectOptions(screen.getByLabelText("Target"), "build");
    await waitFor(() => expect(host.calls.filter((c) => c.name === "askDockerfile").at(-1)?.args[0]).toMatchObject({ target: "build" }));
    await accessible();
  });
  test("doesn’t wake a machine that is off before it is told to", async () => {
    const host = open("new?folder=/home/ada/src/webshop", { machine: { state: "stopped" } });
    const u = user();
    await u.click(await screen.findByRole("button", { name: "Start it and check" }));
    expect(await screen.findByText("One check is broken")).toBeVisible();
    expect(host.calls.filter((c) => c.name === "askDockerfile")).toHaveLength(1);
  });
  test("takes a secret from the keyring, and goes without an optional one", async () => {
    const host = open("new?folder=/home/ada/src/webshop");
    const u = user();
    await u.selectOptions(await screen.findByLabelText("Dockerfile"), "deploy/Dockerfile.worker");
    expect(await screen.findByText("npmrc")).toBeVisible();
    await u.selectOptions(screen.getByLabelText("Where token comes from"), "keyring");
    await u.click(screen.getByRole("button", { name: "Keep another…" }));
    await u.type(await screen.findByLabelText("Value"), "hunter2");
    await u.click(screen.getByRole("button", { name: "Keep it" }));
    await waitFor(() => expect(screen.getByLabelText("Name of token in the keyring")).toHaveValue("token"));
    await u.click(screen.getByRole("button", { name: "Build" }));
    await waitFor(() => expect(host.calls.find((c) => c.name === "startBuild")?.args[0]).toMatchObject({ secrets: [{ id: "token", source: "keyring", value: "token" }] }));
    expect(host.calls.find((c) => c.name === "keepSecret")?.args).toEqual(["token", "hunter2"]);
  });
  test("builds a repository, which the engine reads", async () => {
    const host = open("new");
    const u = user();
    await u.type(await screen.findByLabelText("Folder or repository"), "https://example.com/shop.git#main{Enter}");
    expect(await screen.findByText("One check is broken")).toBeVisible();
    expect(screen.getByRole("checkbox", { name: "Watch" })).toBeDisabled();
    expect(host.calls.some((c) => c.name === "inspectFolder")).toBe(false);
    await u.click(screen.getByRole("button", { name: "Build" }));
    await waitFor(() => expect(host.calls.find((c) => c.name === "startBuild")?.args[0]).toMatchObject({ context: "https://example.com/shop.git#main" }));
  });
  test("watches a folder until it is told to stop, or is left", async () => {
    const host = open("new?folder=/home/ada/src/webshop");
    const u = user();
    await screen.findByLabelText("NODE_ENV");
    await u.click(screen.getByRole("checkbox", { name: "Watch" }));
    await u.click(screen.getByRole("button", { name: "Build and watch" }));
    const panel = await screen.findByRole("region", { name: "Watching /home/ada/src/webshop" });
    expect(within(panel).getByText("Waiting for a change")).toBeVisible();
    expect(within(panel).getByText("src/checkout.js changed")).toBeVisible();
    expect(screen.getByLabelText("NODE_ENV")).toBeDisabled();
    await accessible();
    await u.click(screen.getByRole("button", { name: "Stop watching" }));
    expect(host.calls.at(-1)?.name).toBe("unwatchFolder");
    await u.click(screen.getByRole("button", { name: "Build and watch" }));
    location.hash = "#/builds";
    await waitFor(() => expect(host.calls.filter((c) => c.name === "unwatchFolder")).toHaveLength(2));
  });
});

test("a builder elsewhere is tested with its certificates before it is added", async () => {
  const host = open("builders");
  const u = user();
  expect(await screen.findByText(/TLS, with a certificate of yours/)).toBeVisible();
  await u.type(screen.getByLabelText("Name"), "farm");
  await u.type(screen.getByLabelText("Address"), "tcp://farm.example.com:1234");
  for (const [label, path] of [["CA", "/c/ca.pem"], ["Certificate", "/c/cert.pem"], ["Key", "/c/key.pem"]] as const) await u.type(screen.getByLabelText(label), path);
  await u.click(screen.getByRole("button", { name: "Test it first" }));
  expect(await screen.findByText(/doesn’t take this certificate/)).toBeVisible();
  await accessible();
  await u.click(screen.getByRole("button", { name: "Add" }));
  const builder = { name: "farm", address: "tcp://farm.example.com:1234", caFile: "/c/ca.pem", certFile: "/c/cert.pem", keyFile: "/c/key.pem", serverName: "" };
  expect(host.calls.find((c) => c.name === "testBuilder")?.args).toEqual([builder]);
  await waitFor(() => expect(host.calls.find((c) => c.name === "addBuilder")?.args).toEqual([builder]));
});

test("a record that somebody exported is taken in", async () => {
  const host = open("builds");
  const u = user();
  await screen.findByText("7 builds");
  await u.click(screen.getByRole("button", { name: "Import…" }));
  await u.type(await screen.findByLabelText("File"), "/home/ada/ci.dockerbuild");
  await u.click(screen.getByRole("button", { name: "Import" }));
  expect(await screen.findByText("imported")).toBeVisible();
  expect(host.calls.find((c) => c.name === "importBuild")?.args).toEqual(["/home/ada/ci.dockerbuild"]);
});

test("a support bundle holds what was shown, but for what was left out", async () => {
  const host = open("doctor");
  const u = user();
  await u.click(await screen.findByRole("button", { name: "Support bundle…" }));
  expect(await screen.findByText("logs/kiln-vmd.log")).toBeVisible();
  await waitFor(() => expect(screen.getByLabelText("File")).toHaveValue("/home/ada/kiln-support.tar.gz"));
  await accessible();
  await u.click(screen.getByRole("checkbox", { name: "Take settings/machine.json along" }));
  await u.click(screen.getByRole("button", { name: "Write the file" }));
  await waitFor(() => expect(host.calls.at(-1)?.name).toBe("saveSupport"));
  const [path, parts] = host.calls.at(-1)!.args as [string, { path: string }[]];
  expect(path).toBe("/home/ada/kiln-support.tar.gz");
  expect(parts.map((p) => p.path)).toEqual(["versions.json", "checks.json", "logs/kiln-vmd.log"]);
});

test("the doctor’s badge is there before the doctor is opened", async () => {
  open("builds");
  expect(await screen.findByText("to look at")).toBeInTheDocument();
});

test("policies are edited with what they would remove in view", async () => {
  const host = open("cache?tab=policies");
  const u = user();
  await u.click(await screen.findByRole("button", { name: "Edit" }));
  const before = screen.getAllByRole("button", { name: /^Remove rule/ }).length;
  await u.click(screen.getByRole("button", { name: "Add a rule" }));
  const rule = screen.getByRole("group", { name: `What rule ${before + 1} is about` });
  await u.click(within(rule).getByRole("checkbox", { name: "cache mounts" }));
  expect(screen.getByText("Cache mounts unused for 7 days may go.")).toBeVisible();
  await u.click(screen.getByRole("button", { name: "Remove rule 1" }));
  await u.click(screen.getByRole("button", { name: "Show what would go" }));
  expect(await screen.findByText(/would go now/)).toBeVisible();
  await accessible();
  await u.click(screen.getByRole("button", { name: "Save policies" }));
  const saved = host.calls.find((c) => c.name === "saveGcPolicies")?.args[0] as { filters: string[] }[];
  expect(saved.length).toBe(before);
  expect(saved.at(-1)?.filters).toEqual(["type==exec.cachemount"]);
});

describe("the cache", () => {
  test("is gone through from projects to a step, and tells what that is", async () => {
    open("cache");
    const u = user();
    const tree = await screen.findByRole("navigation", { name: "Part of the cache" });
    await u.click(within(await screen.findByLabelText("Groups")).getByRole("button", { name: /^webshop/ }));
    await u.click(within(await screen.findByLabelText("Groups")).getByRole("button", { name: /^test/ }));
    const rows = within(await screen.findByLabelText("Records")).getAllByRole("button");
    expect(rows.length).toBe(3);
    await u.click(rows.find((row) => row.textContent?.includes("844 ms"))!);
    expect(screen.getByText(/ · made .* ago · can go/)).toBeVisible();
    await accessible();
    await u.click(screen.getByRole("link", { name: "The build that made it" }));
    expect(await screen.findByRole("heading", { level: 1, name: /^Built webshop:2\.3\.\d in / })).toBeVisible();
    expect(tree).not.toBeInTheDocument();
  });
  test("is narrowed by kind, by use and by words", async () => {
    open("cache");
    const u = user();
    await u.selectOptions(await screen.findByLabelText("Kind"), "Cache mounts");
    expect(within(screen.getByLabelText("Groups")).getAllByRole("button").map((row) => row.textContent)).toEqual([expect.stringMatching(/^webshop/)]);
    await u.selectOptions(screen.getByLabelText("Use"), "in use now");
    expect(screen.getByText("No record matches.")).toBeVisible();
    await u.selectOptions(screen.getByLabelText("Use"), "used or not");
    await u.selectOptions(screen.getByLabelText("Kind"), "of all kinds");
    await u.type(screen.getByLabelText("Filter records"), "webshop npm");
    const found = within(await screen.findByLabelText("Records")).getAllByRole("button");
    expect(found.length).toBeGreaterThan(0);
    for (const row of found) expect(row.textContent).toMatch(/npm/);
  });
});

test("a cache mount goes out as a tar and takes one in", async () => {
  const host = open("cache?tab=mounts");
  const u = user();
  await u.click((await screen.findAllByRole("button", { name: /^Export / }))[0]!);
  await u.click(await screen.findByRole("button", { name: "Export" }));
  await waitFor(() => expect(host.calls.at(-1)?.name).toBe("exportMount"));
  await u.click((await screen.findAllByRole("button", { name: /^Import into / }))[0]!);
  await u.click(await screen.findByRole("button", { name: "Replace its files" }));
  await waitFor(() => expect(host.calls.some((c) => c.name === "importMount")).toBe(true));
});

test("images go to an archive and come from one", async () => {
  const host = open("images");
  const u = user();
  await u.click(await screen.findByRole("checkbox", { name: "Select registry.example.com/shop/api:dev" }));
  await u.click(screen.getByRole("button", { name: "Save…" }));
  await u.click(await screen.findByRole("button", { name: "Save" }));
  await waitFor(() => expect(host.calls.at(-1)).toMatchObject({ name: "saveImages", args: [["registry.example.com/shop/api:dev"], "/tmp/images.tar"] }));
  await u.click(screen.getByRole("button", { name: "Load…" }));
  await u.type(await screen.findByLabelText("File"), "/tmp/in.tar");
  await u.click(screen.getByRole("button", { name: "Load" }));
  expect(await screen.findByText("Loaded shop/loaded:1")).toBeVisible();
});

test("images are removed after a preview of what is freed", async () => {
  const host = open("images");
  const u = user();
  await u.click(await screen.findByRole("checkbox", { name: "Select registry.example.com/shop/api:dev" }));
  await u.click(screen.getByRole("button", { name: "Remove…" }));
  await u.click(await screen.findByRole("button", { name: "Remove, and free 125.6 MB" }));
  await waitFor(() => expect(host.calls.find((c) => c.name === "removeImages")?.args).toEqual([["registry.example.com/shop/api:dev"]]));
});

test("space is freed by a plan that is shown first", async () => {
  const host = open("cache?plan=1");
  const button = await screen.findByRole("button", { name: /Free up \d/ });
  expect(host.calls.some((c) => c.name === "runCleanup")).toBe(false);
  await user().click(button);
  expect(await screen.findByText(/^Freed /)).toBeVisible();
});

test("buildx gets to know Kiln, and the socket is tested with one click", async () => {
  const host = open("machine");
  const u = user();
  const tools = await screen.findByRole("region", { name: "docker buildx" });
  await u.click(await within(tools).findByRole("button", { name: "Add Kiln to buildx" }));
  expect(await within(tools).findByText(/knows the builder kiln/)).toBeVisible();
  await u.click(within(tools).getByRole("button", { name: "Test the socket" }));
  expect(await within(tools).findByText("Workers")).toBeVisible();
  expect(host.calls.find((c) => c.name === "testBuilder")?.args[0]).toMatchObject({ address: "unix:///run/user/1000/kiln/buildkitd.sock" });
  await u.click(within(tools).getByRole("button", { name: "Make it the current one" }));
  expect(await within(tools).findByText(/unless told otherwise/)).toBeVisible();
});

test("a reset wants its word", async () => {
  const host = open("machine");
  const u = user();
  await u.click(await screen.findByRole("button", { name: "Reset…" }));
  const go = await screen.findByRole("button", { name: "Delete everything in the machine" });
  expect(go).toBeDisabled();
  await u.type(screen.getByLabelText(/Type/), "reset");
  await u.click(go);
  await waitFor(() => expect(host.calls.find((c) => c.name === "resetMachine")?.args).toEqual(["reset"]));
});

test("a check is muted, and the badge follows", async () => {
  const host = open("doctor");
  expect(await screen.findByText("2 things to look at.")).toBeVisible();
  await user().click(screen.getAllByRole("button", { name: "Mute" })[0]!);
  expect(await screen.findByText("One thing to look at.")).toBeVisible();
  expect(host.calls.at(-1)).toMatchObject({ name: "saveSettings", args: [{ mutedChecks: ["buildx-config"] }] });
});

test("the palette finds screens and projects", async () => {
  open("builds");
  const u = user();
  await screen.findByText("7 builds");
  await u.keyboard("{Control>}k{/Control}");
  await u.type(await screen.findByRole("combobox", { name: "Find anything" }), "doct");
  await u.keyboard("{Enter}");
  expect(await screen.findByRole("heading", { level: 1, name: "Doctor" })).toBeVisible();
});

test.each(["images", "cache", "cache?tab=mounts", "cache?tab=policies", "machine", "machine?tab=resources", "builders", "registries", "doctor", "settings"])("%s is accessible, and says when the engine is away", async (route) => {
  open(route);
  await screen.findByRole("heading", { level: 1 });
  await new Promise((done) => setTimeout(done));
  await accessible();
});

test("a call that fails says what happened and what to do", async () => {
  open("images", { failing: true });
  expect(await screen.findByText("The engine doesn’t answer.")).toBeVisible();
  expect(screen.getByText("Start the machine, then try again.")).toBeVisible();
});
