/**
 * What the page of a run shows for its kind alone, above its records: a component that is given the
 * job and loaded when a run of the kind is opened.
 */
import { lazy, type ComponentType, type LazyExoticComponent } from "react";
import { further } from "../api/further";
import type { Job } from "../api/client";

export interface PartProps {
  job: Job;
}

export const PARTS: Readonly<Record<string, LazyExoticComponent<ComponentType<PartProps>>>> = {
  ranking: lazy(() => further(() => import("./ranking/RankingPart"))),
  finetune: lazy(() => further(() => import("./finetune/FinetunePart"))),
  search: lazy(() => further(() => import("./search/SearchPart"))),
  comparison: lazy(() => further(() => import("./comparison/ComparisonPart"))),
};
