/**
 * What the page of a run shows for its kind alone, above its records: a component that is given the
 * job and loaded when a run of the kind is opened.
 */
import { lazy, type ComponentType, type LazyExoticComponent } from "react";
import type { Job } from "../api/client";

export interface PartProps {
  job: Job;
}

export const PARTS: Readonly<Record<string, LazyExoticComponent<ComponentType<PartProps>>>> = {
  ranking: lazy(() => import("./ranking/RankingPart")),
  finetune: lazy(() => import("./finetune/FinetunePart")),
  search: lazy(() => import("./search/SearchPart")),
  comparison: lazy(() => import("./comparison/ComparisonPart")),
};
