// What goes into a build: places that are chosen in the desktop's dialogs, and inputs of a build of before.
import { screen, waitFor } from "@testing-library/svelte";
import userEvent from "@testing-library/user-event";
import { expect, test, vi } from "vitest";
import { accessible, open } from "../tests/render";
import { recordings } from "./host/mock";

vi.mock("virtua/svelte", async () => ({ VList: (await import("../tests/PlainList.svelte")).default }));

const ref = (name: string): string => recordings.find((r) => r.name === name)!.record.Ref;
const user = () => userEvent.setup({ pointerEventsCheck: 0 });

test("a folder is chosen in the desktop’s dialog, and read at once", async () => {
  const host = open("new");
  const u = user();
  await u.click(await screen.findByRole("button", { name: "Choose… Choose a folder to build" }));
  expect(await screen.findByLabelText("NODE_ENV")).toBeVisible();
  expect(screen.getByLabelText("Folder or repository")).toHaveValue("/home/ada/src/webshop");
  expect(host.calls.find((c) => c.name === "pick")?.args[0]).toMatchObject({ what: "folder" });
  await u.click(screen.getByRole("radio", { name: /Save as a file/ }));
  await u.click(screen.getByRole("button", { name: "Choose… Save the image as" }));
  await waitFor(() => expect(screen.getByLabelText("File")).toHaveValue("/home/ada/chosen.tar"));
  await accessible();
});

test("a dialog that is left changes nothing", async () => {
  const host = open("builds");
  host.pick = async () => null;
  const u = user();
  await u.click(await screen.findByRole("button", { name: "Import…" }));
  await u.type(await screen.findByLabelText("File"), "/typed.dockerbuild");
  await u.click(screen.getByRole("button", { name: "Choose… Choose a build’s record" }));
  expect(screen.getByLabelText("File")).toHaveValue("/typed.dockerbuild");
});

test("a build is started once more with one click where all of its inputs are known", async () => {
  const host = open(`build/${ref("webshop-changed")}`);
  const request = { context: "/src/shop", dockerfile: "Dockerfile" };
  host.rebuild = async () => ({ request, missing: [], different: [] }) as never;
  await user().click(await screen.findByRole("button", { name: "Rebuild" }));
  await waitFor(() => expect(host.calls.find((c) => c.name === "startBuild")?.args).toEqual([request]));
});

test("what isn’t known of it is said before it starts", async () => {
  const host = open(`build/${ref("webshop-changed")}`);
  const known = host.rebuild.bind(host);
  host.rebuild = async (reference) => ({ ...(await known(reference)), missing: ["Where its files went isn’t recorded."], different: ["Its network mode (host) isn’t set again."] });
  await user().click(await screen.findByRole("button", { name: "Rebuild" }));
  expect(await screen.findByRole("heading", { level: 1, name: "Rebuild with changes" })).toBeVisible();
  expect(await screen.findByText("Where its files went isn’t recorded.")).toBeVisible();
  expect(screen.getByText("Its network mode (host) isn’t set again.")).toBeVisible();
  expect(host.calls.some((c) => c.name === "startBuild")).toBe(false);
  await accessible();
});

test("“Rebuild with…” opens the form as it was filled then", async () => {
  const host = open(`build/${ref("webshop-changed")}`);
  await user().click(await screen.findByRole("button", { name: "Rebuild with…" }));
  expect(await screen.findByRole("heading", { level: 1, name: "Rebuild with changes" })).toBeVisible();
  expect(host.calls.some((c) => c.name === "startBuild")).toBe(false);
});

test.each(["rebuild", "inspectFolder"] as const)("a form that is left while %s is under way is let go of", async (call) => {
  const host = open("builds");
  const warn = vi.spyOn(console, "warn");
  const own = host[call] as (...args: string[]) => Promise<unknown>;
  let answer: (() => void) | undefined;
  let answered: Promise<unknown> | undefined;
  host[call] = ((...args: string[]) => (answered = new Promise<void>((go) => (answer = go)).then(() => own(...args)))) as never;
  await screen.findByText("7 builds");
  location.hash = `#/new/${ref("webshop-changed")}`;
  expect(await screen.findByRole("heading", { level: 1, name: "Rebuild with changes" })).toBeVisible();
  await waitFor(() => expect(answer).toBeDefined());
  location.hash = "#/builds";
  await screen.findByText("7 builds");
  answer!();
  await answered;
  // What follows the answer runs before a timer does.
  await new Promise((go) => setTimeout(go));
  if (call === "rebuild") expect(host.calls.some((c) => c.name === "inspectFolder")).toBe(false);
  expect(warn).not.toHaveBeenCalled();
  warn.mockRestore();
});
