import { Component, type ReactNode } from "react";
import { describe } from "../api/problem";
import { ProblemBox } from "../ui/ProblemBox";

/** Shows what a page failed with in its place, and leaves the frame around it standing. */
export class ErrorBoundary extends Component<{ children: ReactNode }, { error: unknown }> {
  override state: { error: unknown } = { error: null };

  static getDerivedStateFromError(error: unknown) {
    return { error };
  }

  override render() {
    const { error } = this.state;
    return error ? <ProblemBox problem={describe(error)} /> : this.props.children;
  }
}
