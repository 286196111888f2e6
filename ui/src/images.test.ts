// Images: where they come from, what uses them, and how they travel.
import { screen, waitFor, within } from "@testing-library/svelte";
import userEvent from "@testing-library/user-event";
import { expect, test } from "vitest";
import { accessible, open } from "../tests/render";

// bits-ui closes the page to pointers while a dialog of the test before fades.
const user = () => userEvent.setup({ pointerEventsCheck: 0 });

test("an image leads to the build that made it, and to the images below and beside it", async () => {
  open("images?image=registry.example.com/shop/webshop:2.3.1");
  const made = within(await screen.findByRole("region", { name: "Where it comes from" }));
  expect(made.getByRole("link", { name: "webshop" })).toHaveAttribute("href", "#/build/w22jmmmfti4wnulgdfr9jm99s");
  const uses = within(screen.getByRole("region", { name: "What uses it" }));
  expect(made.getByRole("link", { name: "debian:bookworm-slim" }).closest("li")).toHaveTextContent("this image is built on it");
  expect(uses.getByRole("link", { name: "registry.example.com/shop/webshop:2.3.0" }).closest("li")).toHaveTextContent("its first 3 layers in common");
  const row = screen.getByRole("button", { name: "registry.example.com/shop/webshop:2.3.1" }).closest("tr")!;
  expect(within(row).getByRole("link", { name: "webshop" })).toHaveAttribute("href", "#/build/w22jmmmfti4wnulgdfr9jm99s");
  await accessible();
});

test("a base image names the builds and images that need it, the newest builds first", async () => {
  open("images?image=docker.io/library/debian:bookworm-slim");
  const uses = within(await screen.findByRole("region", { name: "What uses it" }));
  expect(screen.getByText(/No build that history has/)).toBeVisible();
  expect(uses.getAllByRole("link").map((a) => a.textContent)).toEqual(["webshop", "webshop", "webshop", "api", "0000000000000000000000old".slice(0, 12), "registry.example.com/shop/webshop:2.3.1", "e5e5e5e5e5e5"]);
  expect(uses.getByText("and 68 older builds")).toBeVisible();
  expect(uses.getByText("built on this image, 3 layers more")).toBeVisible();
  await user().click(uses.getByRole("link", { name: "api" }));
  expect(await screen.findByRole("heading", { level: 1, name: /Built/ })).toBeVisible();
});

test("a pull shows how far it is, also after a look elsewhere, and brings the image into the list", async () => {
  const host = open("images");
  const u = user();
  await u.click(await screen.findByRole("button", { name: "Pull image" }));
  await u.type(await screen.findByLabelText("Name"), "postgres:16{Enter}");
  const card = await screen.findByRole("article", { name: "Pulling postgres:16" });
  expect(within(card).getByText("Downloading 2 of 5 layers, 153.4 of 182.9 MB")).toBeVisible();
  await u.click(within(card).getByText("Layers"));
  expect(within(card).getByText("there already")).toBeVisible();
  expect(within(card).getByText("30.7 of 58.3 MB")).toBeVisible();
  await accessible();
  location.hash = "#/builds";
  await screen.findByText("7 builds");
  location.hash = "#/images";
  expect(await screen.findByRole("article", { name: "Pulling postgres:16" })).toBeVisible();
  const before = host.calls.filter((c) => c.name === "images").length;
  host.emitTransfer({ finished: "sha256:9999" });
  expect(await screen.findByText("Pulled postgres:16")).toBeVisible();
  expect(screen.queryByRole("article")).toBeNull();
  await waitFor(() => expect(host.calls.filter((c) => c.name === "images").length).toBe(before + 1));
  expect(host.calls.some((c) => c.name.endsWith("cancelled"))).toBe(false);
});

test("a push is cancelled, and one that fails says why", async () => {
  const host = open("images?image=registry.example.com/shop/api:dev");
  const u = user();
  await u.click(await screen.findByRole("button", { name: "Push" }));
  const card = await screen.findByRole("article", { name: "Pushing registry.example.com/shop/api:dev" });
  expect(within(card).getByText(/^Uploading 2 of 5 layers/)).toBeVisible();
  expect(screen.getByRole("button", { name: "Pushing…" })).toBeDisabled();
  await u.click(within(card).getByRole("button", { name: "Cancel" }));
  expect(host.calls.at(-1)).toMatchObject({ name: "pushImage cancelled", args: ["registry.example.com/shop/api:dev"] });
  await u.click(await screen.findByRole("button", { name: "Push" }));
  host.emitTransfer({ error: "registry.example.com: denied", hint: "Log in to it in Registries." });
  expect(await screen.findByText("registry.example.com: denied")).toBeVisible();
  expect(screen.queryByRole("article")).toBeNull();
});
