/** The parts of Observable Plot that charts here use, in a chunk of their own. */
export {
  axisX,
  axisY,
  barX,
  cell,
  dot,
  gridX,
  gridY,
  line,
  plot,
  ruleX,
  ruleY,
  text,
} from "@observablehq/plot";
