// What the machine and its engine are told in forms: sizes, history, registries; and what waits for a restart.
import { fireEvent, screen, waitFor, within } from "@testing-library/svelte";
import userEvent from "@testing-library/user-event";
import { expect, test } from "vitest";
import { accessible, open } from "../tests/render";

const user = () => userEvent.setup({ pointerEventsCheck: 0 });
const GIB = 1024 ** 3;

test("the disk can only grow, and what would fill the computer is said", async () => {
  const host = open("machine?tab=resources");
  const disk = await screen.findByRole("slider", { name: "Disk" });
  await fireEvent.input(disk, { target: { value: String(10 * GIB) } });
  expect(disk).toHaveValue("64000000000");
  expect(screen.getByText(/can only grow/)).toBeVisible();
  await fireEvent.input(disk, { target: { value: String(165 * GIB) } });
  expect(screen.getByText(/would be full before/)).toBeVisible();
  await fireEvent.input(screen.getByRole("slider", { name: "CPUs" }), { target: { value: "8" } });
  expect(screen.getByText(/leaves this computer none/)).toBeVisible();
  await accessible();
  const u = user();
  await u.click(screen.getByRole("button", { name: "Save resources" }));
  expect(host.calls.find((c) => c.name === "saveMachineSettings")?.args[0]).toMatchObject({ cpus: 8, diskBytes: 165 * GIB });
  await u.click(await screen.findByRole("button", { name: "Restart the machine now" }));
  await waitFor(() => expect(host.calls.some((c) => c.name === "restartMachine")).toBe(true));
  await waitFor(() => expect(screen.queryByRole("button", { name: "Restart the machine now" })).toBeNull());
});

test("sizes that nobody set are shown as they are, and stay unset", async () => {
  const host = open("machine?tab=resources");
  const settings = await host.machineSettings();
  host.machineSettings = async () => ({ ...settings, cpus: 0, memoryBytes: 0, diskBytes: 0 });
  location.hash = "#/builds";
  await screen.findByText("7 builds");
  location.hash = "#/machine?tab=resources";
  expect(await screen.findByRole("slider", { name: "CPUs" })).toHaveValue("4");
  await user().click(screen.getByRole("button", { name: "Save resources" }));
  expect(host.calls.find((c) => c.name === "saveMachineSettings")?.args[0]).toMatchObject({ cpus: 0, memoryBytes: 0, diskBytes: 0 });
});

test("how long builds are remembered is a sentence, kept by the machine", async () => {
  const host = open("settings");
  const form = await screen.findByRole("form", { name: "History of builds" });
  expect(await within(form).findByText(/older than 30 days and not among the newest 50/)).toBeVisible();
  const u = user();
  await u.type(within(form).getByLabelText("Newest builds"), "500");
  await u.type(within(form).getByLabelText("Size (GB)"), "2");
  expect(within(form).getByText(/newest 500, or once all records together are larger than 2.0 GB/)).toBeVisible();
  await u.click(within(form).getByRole("button", { name: "Save retention" }));
  await waitFor(() => expect(host.calls.find((c) => c.name === "saveRetention")?.args).toEqual([{ maxAgeDays: 30, maxEntries: 500, maxBytes: 2e9 }]));
  expect(await within(form).findByRole("button", { name: "Restart the machine now" })).toBeVisible();
  await accessible();
});

test("a registry gets mirrors and a CA of its own, or is refused in words", async () => {
  const host = open("registries");
  const u = user();
  await u.click(await screen.findByRole("button", { name: "Settings of registry.example.com" }));
  const form = screen.getByRole("form", { name: "Settings of registry.example.com" });
  expect(within(form).getByLabelText("Certificate authorities")).toHaveValue("/home/ada/certs/example-corp.pem");
  await u.type(within(form).getByLabelText("Mirrors"), "m1.example{Enter}m2.example/hub");
  await u.click(within(form).getByRole("button", { name: "Choose… a certificate authority" }));
  await u.selectOptions(within(form).getByLabelText("Connection"), "insecure");
  expect(within(form).getByText(/Anybody between you and it/)).toBeVisible();
  await accessible();
  const save = host.saveRegistry.bind(host);
  host.saveRegistry = () => Promise.reject({ kind: "user", message: "“m1” isn’t a mirror.", hint: "Give a host." });
  await u.click(within(form).getByRole("button", { name: "Save registry" }));
  expect(await within(form).findByText("“m1” isn’t a mirror.")).toBeVisible();
  host.saveRegistry = save;
  await u.click(within(form).getByRole("button", { name: "Save registry" }));
  expect(host.calls.find((c) => c.name === "saveRegistry")?.args[0]).toMatchObject({
    host: "registry.example.com", mirrors: ["m1.example", "m2.example/hub"], insecure: true, http: false, caFiles: ["/home/ada/certs/example-corp.pem", "/home/ada/chosen.pem"],
  });
  expect(await screen.findByRole("button", { name: "Restart the machine now" })).toBeVisible();
});

test("a registry’s settings are added and let go", async () => {
  const host = open("registries");
  const u = user();
  await u.click(await screen.findByRole("button", { name: "Add a registry…" }));
  const form = screen.getByRole("form", { name: "Add a registry" });
  await u.type(within(form).getByLabelText("Registry"), "127.0.0.1:5000");
  expect(within(form).getByText(/in plain HTTP/)).toBeVisible();
  await u.click(within(form).getByRole("button", { name: "Save registry" }));
  await waitFor(() => expect(host.calls.find((c) => c.name === "saveRegistry")?.args[0]).toMatchObject({ host: "127.0.0.1:5000" }));
  await u.click(screen.getByRole("button", { name: "Settings of docker.io" }));
  await u.click(screen.getByRole("button", { name: "Use the defaults" }));
  await waitFor(() => expect(host.calls.find((c) => c.name === "forgetRegistry")?.args).toEqual(["docker.io"]));
});

test("a clean-up says what this computer got back", async () => {
  open("cache?plan=1");
  await user().click(await screen.findByRole("button", { name: /Free up \d/ }));
  expect(await screen.findByText(/This computer has 1.9 GB more/)).toBeVisible();
});

test("the log of clean-ups says it too", async () => {
  open("cache?tab=policies");
  expect(await screen.findByText(/1.9 GB back to this computer/)).toBeVisible();
});

test("gauges show what is used, only while somebody looks and the machine runs", async () => {
  const host = open("machine");
  const count = (name: string): number => host.calls.filter((c) => c.name === name).length;
  const processor = within(await screen.findByRole("region", { name: "Processor" }));
  expect(processor.getByRole("img", { name: "1.4 of 4 CPUs at work" })).toBeVisible();
  expect(processor.getByText("34%")).toBeVisible();
  expect(screen.getByRole("img", { name: "1.4 of 4.0 GB used" })).toBeVisible();
  expect(screen.getByText("2.4 GB can go · 6.6 GB held on this computer")).toBeVisible();
  await accessible();
  const u = user();
  await u.click(screen.getByRole("tab", { name: "Console" }));
  await waitFor(() => expect(count("unwatchUse")).toBe(1));
  await u.click(screen.getByRole("tab", { name: "Overview" }));
  await waitFor(() => expect(count("watchUse")).toBe(2));
  await u.click(screen.getByRole("button", { name: "Stop" }));
  await waitFor(() => expect(count("unwatchUse")).toBe(2));
  expect(screen.queryByRole("img", { name: /at work/ })).toBeNull();
  expect(within(screen.getByRole("region", { name: "Processor" })).getByText("4 CPUs")).toBeVisible();
});

test("an engine that can’t say what it uses leaves what the machine has", async () => {
  const host = open("builds");
  host.watchUse = () => () => {};
  location.hash = "#/machine";
  expect(within(await screen.findByRole("region", { name: "Memory" })).getByText("4.0 GB")).toBeVisible();
});
