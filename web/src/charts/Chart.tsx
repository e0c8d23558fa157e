import { useEffect, useId, useRef, useState, type ReactNode } from "react";
import type { PlotOptions } from "@observablehq/plot";
import { further } from "../api/further";
import { describe } from "../api/problem";
import { ProblemBox } from "../ui/ProblemBox";
import "./charts.css";

export type Plot = typeof import("./plot");
/** What to draw at a width in pixels. It must keep its identity as long as it draws the same. */
export type Draw = (plot: Plot, width: number) => PlotOptions;

export interface Table {
  columns: readonly string[];
  rows: readonly (readonly (string | number)[])[];
}

interface Props {
  title: string;
  draw: Draw;
  /** The same numbers for who does not see the drawing. */
  table: Table;
  /** How to read it. */
  children?: ReactNode;
}

/** A drawing with a title, words on how to read it, and its numbers as a table. */
export function Chart({ title, draw, table, children }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const name = useId();
  // A run that is followed for hours has thousands of them: they are written where they are read.
  const [open, setOpen] = useState(false);
  const error = useDrawing(box, title, draw);
  return (
    <figure className="chart" aria-labelledby={name}>
      <h3 id={name}>{title}</h3>
      {children && <figcaption className="muted">{children}</figcaption>}
      {error !== null && <ProblemBox problem={describe(error)} />}
      <div ref={box} className="plot-box" />
      <details onToggle={(event) => setOpen(event.currentTarget.open)}>
        <summary>
          The numbers<span className="unseen"> of: {title}</span>
        </summary>
        {open && <Numbers title={title} table={table} />}
      </details>
    </figure>
  );
}

function Numbers({ title, table }: { title: string; table: Table }) {
  return (
    <div className="scroll" tabIndex={0} role="region" aria-label={`The numbers of: ${title}`}>
      <table>
        <thead>
          <tr>
            {table.columns.map((column) => (
              <th scope="col" key={column}>
                {column}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {table.rows.map((row, index) => (
            <tr key={index}>
              {row.map((value, place) => (
                <td key={place}>{value}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** Draws into a box at its width, and again when either changes. What the library failed with. */
function useDrawing(box: React.RefObject<HTMLDivElement | null>, title: string, draw: Draw): unknown {
  const [plot, setPlot] = useState<Plot | null>(null);
  const [error, setError] = useState<unknown>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    further(() => import("./plot")).then(setPlot, setError);
  }, []);
  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const observer = new ResizeObserver(() => setWidth(Math.floor(element.clientWidth)));
    observer.observe(element);
    return () => observer.disconnect();
  }, [box]);
  useEffect(() => {
    if (plot && width > 0) box.current?.replaceChildren(drawn(plot, title, draw, width));
  }, [box, plot, title, draw, width]);
  return error;
}

function drawn(plot: Plot, title: string, draw: Draw, width: number): Element {
  const options = { ...draw(plot, width), width, className: "plot", ariaLabel: title };
  const drawing = plot.plot(options);
  // The page's policy forbids styles within the document; charts.css has what this one says.
  for (const style of drawing.querySelectorAll("style")) style.remove();
  drawing.setAttribute("role", "img");
  for (const part of drawing.querySelectorAll("[aria-label]")) part.removeAttribute("aria-label");
  return drawing;
}
