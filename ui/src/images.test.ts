// Images: where they come from, what uses them, and how they travel.
import { screen, within } from "@testing-library/svelte";
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
  expect(uses.getByRole("link", { name: "debian:bookworm-slim" }).closest("li")).toHaveTextContent("this image is built on it");
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
