/**
 * Every page, by the first part of its address. A further page is an entry here and a folder under
 * `src/`; its code is loaded when it is first opened.
 */
import { lazy, type ComponentType, type LazyExoticComponent } from "react";
import { further } from "../api/further";
import type { Place } from "./router";

export interface PageProps {
  place: Place;
}

export interface Page {
  /** The first part of the address. */
  readonly name: string;
  /** Whether the rest of the address is an id, of one thing rather than of the list. */
  readonly withId: boolean;
  /** The words in the navigation; a page without them is reached from another one. */
  readonly navigation?: string;
  readonly component: LazyExoticComponent<ComponentType<PageProps>>;
}

export const PAGES: readonly Page[] = [
  {
    name: "runs",
    withId: false,
    navigation: "Runs",
    component: lazy(() => further(() => import("../runs/RunsPage"))),
  },
  { name: "runs", withId: true, component: lazy(() => further(() => import("../run/RunPage"))) },
  {
    name: "new",
    withId: false,
    navigation: "New run",
    component: lazy(() => further(() => import("../new/NewRunPage"))),
  },
  {
    name: "datasets",
    withId: false,
    navigation: "Datasets",
    component: lazy(() => further(() => import("../datasets/DatasetsPage"))),
  },
  { name: "datasets", withId: true, component: lazy(() => further(() => import("../datasets/DatasetPage"))) },
  {
    name: "queue",
    withId: false,
    navigation: "Queue",
    component: lazy(() => further(() => import("../service/QueuePage"))),
  },
  {
    name: "usage",
    withId: false,
    navigation: "Usage",
    component: lazy(() => further(() => import("../service/UsagePage"))),
  },
  {
    name: "keys",
    withId: false,
    navigation: "Keys",
    component: lazy(() => further(() => import("../service/KeysPage"))),
  },
  {
    name: "projects",
    withId: false,
    navigation: "Projects",
    component: lazy(() => further(() => import("../service/ProjectsPage"))),
  },
  {
    name: "webhooks",
    withId: false,
    navigation: "Webhooks",
    component: lazy(() => further(() => import("../service/WebhooksPage"))),
  },
  { name: "webhooks", withId: true, component: lazy(() => further(() => import("../service/WebhookPage"))) },
];

export const FIRST = "runs";

/** The page at a place, if there is one. */
export function pageAt({ parts }: Place): Page | undefined {
  const [name = FIRST, ...rest] = parts;
  if (rest.length > 1) return undefined;
  return PAGES.find((page) => page.name === name && page.withId === (rest.length === 1));
}
